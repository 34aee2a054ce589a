/** When the page is drawn: once a frame at most, whatever asked for it. */

let paint = () => {};
let waiting = false;

export function drawBy(function_) {
  paint = function_;
}

export function redraw() {
  if (waiting) return;
  waiting = true;
  requestAnimationFrame(() => {
    waiting = false;
    paint();
  });
}
