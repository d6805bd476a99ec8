const begin = () => import("./page.js");
new PerformanceObserver(begin).observe({ type: "paint", buffered: true });
setTimeout(begin, 200); // if nothing is painted
