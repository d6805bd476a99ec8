// A row of many buttons is one stop of the Tab key; arrows walk along it.

const STEPS = { ArrowLeft: -1, ArrowRight: 1, Home: -Infinity, End: Infinity };

/** A function to call after buttons were added or removed: the last one is then the stop, unless the focus is inside. */
export function rove(place) {
  let stop = null;
  const move = (button) => {
    if (stop) stop.tabIndex = -1;
    stop = button ?? null;
    if (stop) stop.tabIndex = 0;
  };
  place.addEventListener("focusin", (event) => move(event.target.closest("button")));
  place.addEventListener("keydown", (event) => {
    const by = STEPS[event.key];
    if (by === undefined || event.ctrlKey || event.altKey || event.metaKey) return;
    event.preventDefault();
    const buttons = [...place.querySelectorAll("button")];
    const at = Math.min(Math.max(buttons.indexOf(stop) + by, 0), buttons.length - 1);
    buttons[at]?.focus();
  });
  return () => {
    if (!stop?.isConnected || !place.contains(document.activeElement)) move(place.lastElementChild?.querySelector("button"));
  };
}
