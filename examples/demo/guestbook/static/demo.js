// The front page's experiments, with two gauges that show what still answers. Without this script
// the page works too: the forms are ordinary ones, and the commands can be pasted.
"use strict";

const board = document.getElementById("board");
const said = document.getElementById("said");
const threads = 8;
let watchers = 0;

board.hidden = false;

const pause = (ms) => new Promise((done) => setTimeout(done, ms));
const say = (text) => { said.textContent = text; };

// Ask for `path` again and again; show how long the answer took, or how long it is awaited.
async function watch(path, gauge, name) {
  while (watchers > 0) {
    const begun = performance.now();
    const clock = setInterval(() => {
      const waited = (performance.now() - begun) / 1000;
      if (waited > 0.5) show(gauge, `no answer for ${waited.toFixed(1)} s`, true);
    }, 100);
    try {
      const answer = await fetch(path, { cache: "no-store" });
      const text = await answer.text();
      clearInterval(clock);
      const took = (performance.now() - begun).toFixed(0);
      show(gauge, `${answer.status} in ${took} ms${name(answer, text)}`, !answer.ok);
    } catch (error) {
      clearInterval(clock);
      show(gauge, "no connection", true);
    }
    await pause(500);
  }
}

function show(gauge, text, late) {
  const place = document.getElementById(gauge);
  place.textContent = text;
  place.classList.toggle("late", late);
}

function worker(answer, text) {
  if (!answer.ok) return "";
  const { pid } = JSON.parse(text);
  offer(pid);
  return `, worker ${pid}`;
}

// The commands on the page name a worker; a killed one is not to be named again.
function offer(pid) {
  for (const place of document.querySelectorAll("[data-worker]")) place.textContent = pid;
}

// Who comes back from the terminal may have killed it there.
window.addEventListener("focus", async () => {
  const answer = await fetch("/ping", { cache: "no-store" }).catch(() => null);
  if (answer && answer.ok) offer((await answer.json()).pid);
});

function startWatching() {
  watchers += 1;
  if (watchers > 1) return;
  watch("/ping", "app-gauge", worker);
  watch("/static/logo.svg", "file-gauge", () => "");
}

// A browser opens few connections to one host, so the eight go in pairs of two origins.
async function hang() {
  say("Eight requests now hold the eight threads. Watch the file.");
  const other = location.hostname === "127.0.0.1" ? "localhost" : "127.0.0.1";
  const requests = [];
  for (let n = 0; n < threads; n++) {
    const host = n < threads / 2 ? location.host : `${other}:${location.port}`;
    requests.push(fetch(`http://${host}/hang?seconds=15&n=${n}`, { mode: "no-cors", cache: "no-store" }).catch(() => null));
  }
  await Promise.all(requests);
  say("All eight threads are free again.");
}

async function kill(form) {
  say("Asking a worker to kill itself ...");
  const answer = await fetch(form.action, { method: "POST", body: new URLSearchParams(new FormData(form)) });
  say(`The request that killed it was answered ${answer.status} by the pump. The others never noticed.`);
}

const experiments = { hang, kill };

for (const form of document.querySelectorAll("form[data-experiment]")) {
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    const button = form.querySelector("button");
    button.disabled = true;
    startWatching();
    try {
      await experiments[form.dataset.experiment](form);
    } catch (error) {
      say(`The experiment itself failed: ${error.message}`);
    }
    button.disabled = false;
    await pause(5000);
    watchers -= 1;
  });
}
