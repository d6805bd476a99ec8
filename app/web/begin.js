const begin = () => import("./page.js");
const look = (seen) => seen.getEntriesByName("first-contentful-paint")[0] && begin();
new PerformanceObserver(look).observe({ type: "paint", buffered: true });
setTimeout(begin, 200); // if nothing is painted
