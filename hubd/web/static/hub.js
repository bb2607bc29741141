// What every page has: whether the hub can be heard, and a flash where a value has changed.
(() => {
  "use strict";
  const pulse = document.getElementById("pulse");
  if (!pulse) return; // nobody is logged in
  const say = (text, kind) => {
    pulse.textContent = text;
    pulse.className = "pulse " + kind;
  };
  window.hubPulse = say;
  if (!document.querySelector("[hx-sse\\:connect]") && !document.getElementById("chart")) say("", "");

  document.addEventListener("htmx:after:sse:connection", () => say("live", "on"));
  document.addEventListener("htmx:after:sse:message", () => say("live", "on"));
  document.addEventListener("htmx:sse:error", (event) => {
    if (event.detail && event.detail.status === 401) location.reload(); // it asks who is there
    else say("hub out of reach", "off");
  });
  document.addEventListener("htmx:sse:close", () => say("not live", "off"));

  const live = document.getElementById("live");
  if (!live) return;
  // Only what changed, by the name of its cell; the hub has escaped it.
  live.addEventListener("cells", (event) => {
    say("live", "on");
    for (const [name, html] of Object.entries(JSON.parse(event.detail.data))) {
      for (const cell of document.querySelectorAll(`[data-cell="${CSS.escape(name)}"]`)) {
        cell.innerHTML = html;
      }
    }
  });
  new MutationObserver((changes) => {
    for (const change of changes) {
      const at = change.target.nodeType === 1 ? change.target : change.target.parentElement;
      const watched = at && at.closest("[data-watch]");
      if (!watched) continue;
      watched.classList.remove("changed");
      void watched.offsetWidth; // a restarted animation needs a layout in between
      watched.classList.add("changed");
    }
  }).observe(live, { subtree: true, characterData: true, childList: true });
})();
