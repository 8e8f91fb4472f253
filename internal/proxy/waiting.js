(async () => {
  const main = document.getElementById("waiting"), steps = document.getElementById("steps");
  const began = performance.now();
  let seen = main.dataset.seen, last = steps.lastElementChild.textContent;
  const pause = (ms) => new Promise((done) => setTimeout(done, ms));
  const show = (text) => {
    if (text === last) return;
    last = text;
    const step = document.createElement("li"), at = document.createElement("time");
    step.textContent = text;
    at.textContent = ((performance.now() - began) / 1000).toFixed(1) + " s";
    step.prepend(at);
    steps.append(step);
    while (steps.childElementCount > 20) steps.firstElementChild.remove();
  };
  for (;;) {
    try {
      const answer = await fetch(main.dataset.path + "?seen=" + encodeURIComponent(seen), { cache: "no-store" });
      if (answer.status !== 200) break; // it failed, or is gone: the answer to the page itself says why
      const now = await answer.json();
      show(now.detail);
      if (now.state === "ready") break;
      seen = now.seen;
    } catch {
      show("The connection was lost, and is tried again.");
      await pause(1000);
    }
  }
  location.reload();
})();
