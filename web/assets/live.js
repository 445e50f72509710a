// Liveness, and nothing else: every page works without this file.
// One event stream a tab keeps the page's regions up to date; it is closed
// while the tab is hidden. Time left and time gone are counted here.
"use strict";
(() => {
  const body = document.body;
  const page = body.dataset.live;
  const bar = document.getElementById("connection");
  const asOf = document.getElementById("as-of");
  const liveness = document.getElementById("liveness");
  const quiet = 40000; // ms without a message (the server beats every 15 s)
  let skew = Date.parse(body.dataset.now) - Date.now();
  let stream = null, lastHeard = Date.now(), retry = 0, lost = false;

  // Words for time; the server has the same rules (units.go).
  const two = n => String(n).padStart(2, "0");
  function ago(t, now) {
    let d = now - t;
    const say = d < 0 ? s => "in " + s : s => s + " ago";
    const s = Math.floor(Math.abs(d) / 1000);
    if (s < 1) return "just now";
    if (s < 60) return say(s + " s");
    if (s < 3600) return say(Math.floor(s / 60) + " min");
    if (s < 86400) return say(Math.floor(s / 3600) + " h " + Math.floor(s / 60) % 60 + " min");
    return say(Math.floor(s / 86400) + " d");
  }
  function left(ms) {
    const s = Math.ceil(Math.max(0, ms) / 1000);
    const h = Math.floor(s / 3600);
    return (h ? h + ":" + two(Math.floor(s / 60) % 60) : Math.floor(s / 60)) + ":" + two(s % 60);
  }
  const set = (e, text) => { if (e.textContent !== text) e.textContent = text; };
  function tick() {
    const now = Date.now() + skew;
    for (const e of document.querySelectorAll("[data-ago]")) set(e, ago(Date.parse(e.dataset.ago), now));
    for (const e of document.querySelectorAll("[data-left]")) {
      const ms = Date.parse(e.dataset.left) - now;
      set(e, left(ms));
      e.classList.toggle("soon", ms < 15000);
    }
    for (const e of document.querySelectorAll("[data-until]")) {
      const until = Date.parse(e.dataset.until), whole = until - Date.parse(e.dataset.from);
      e.setAttribute("width", Math.round(1000 * Math.min(1, Math.max(0, (until - now) / whole))));
    }
    if (stream && Date.now() - lastHeard > quiet) again();
  }

  // morph makes an element like another in place, so that focus, typed text,
  // open details and scroll positions stay.
  function morph(from, to) {
    for (const a of [...from.attributes]) {
      if (!to.hasAttribute(a.name) && a.name !== "open") from.removeAttribute(a.name);
    }
    for (const a of to.attributes) {
      if (from.getAttribute(a.name) !== a.value) from.setAttribute(a.name, a.value);
    }
    morphChildren(from, to);
  }
  function morphChildren(from, to) {
    let old = from.firstChild;
    for (const want of [...to.childNodes]) {
      // What has a name is found again: what stood before it has gone.
      const kept = want.id && [...from.children].find(c => c.id === want.id);
      while (kept && old && old !== kept && (kept.compareDocumentPosition(old) & Node.DOCUMENT_POSITION_PRECEDING)) {
        const next = old.nextSibling;
        old.remove();
        old = next;
      }
      if (old && old.nodeType === want.nodeType && old.nodeName === want.nodeName && old.id === want.id) {
        if (want.nodeType === Node.ELEMENT_NODE) morph(old, want);
        else if (old.nodeValue !== want.nodeValue) old.nodeValue = want.nodeValue;
        old = old.nextSibling;
      } else {
        from.insertBefore(want, old);
      }
    }
    while (old) { const next = old.nextSibling; old.remove(); old = next; }
  }
  function show(id, html) {
    const region = document.getElementById("r-" + id);
    if (!region) return;
    const t = document.createElement("template");
    t.innerHTML = html;
    morphChildren(region, t.content);
    const word = document.querySelector(".top .word");
    if (id === "strip" && word) document.title = word.textContent + " · " + body.dataset.title + " · Permafrost";
  }

  function say(text) {
    if (!text) { bar.hidden = true; set(bar, ""); return; }
    set(bar, text);
    bar.hidden = false;
  }
  function lose(why) {
    lost = true;
    body.classList.add("stale");
    say(why + " What you see is from " + asOf.textContent.trim() + ". Trying again …");
    set(liveness, "");
  }
  function hear(e) {
    const m = JSON.parse(e.data);
    lastHeard = Date.now();
    skew = Date.parse(m.now) - lastHeard;
    if (lost) { lost = false; body.classList.remove("stale"); say(""); }
    if (m.error) say(m.error);
    else if (m.regions) { say(""); for (const id in m.regions) show(id, m.regions[id]); }
    asOf.dateTime = m.now;
    set(asOf, m.now.slice(11, 19) + " UTC");
    set(liveness, "· live");
    tick();
  }
  function close() {
    clearTimeout(retry);
    if (stream) stream.close();
    stream = null;
  }
  function again() {
    close();
    lose("The connection is lost.");
    retry = setTimeout(open, 5000);
  }
  function open() {
    close();
    if (document.hidden || !page) return;
    lastHeard = Date.now();
    stream = new EventSource("/ui/live?page=" + encodeURIComponent(page));
    stream.onmessage = hear;
    stream.onerror = () => {
      if (stream && stream.readyState === EventSource.CLOSED) again();
      else lose("The connection is lost.");
    };
  }
  document.addEventListener("visibilitychange", () => document.hidden ? close() : open());
  addEventListener("pagehide", close);
  addEventListener("pageshow", e => { if (e.persisted) open(); });
  setInterval(tick, 500);
  tick();
  open();
})();
