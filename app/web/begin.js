const begin = () => import("./page.js"); // after the first paint
requestAnimationFrame(() => setTimeout(begin));
setTimeout(begin, 200); // if there is none
