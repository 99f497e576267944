"use strict";

const at = (id) => document.getElementById(id);
const state = { token: sessionStorage.getItem("isthmus-token") || "", domains: [], taken: [], ready: false };

/** An element with text and children; text is never read as markup. */
function element(name, { text, ...properties } = {}, ...children) {
  const made = Object.assign(document.createElement(name), properties);
  if (text !== undefined) made.textContent = text;
  made.append(...children);
  return made;
}

async function ask(path, body) {
  const headers = state.token ? { Authorization: `Bearer ${state.token}` } : {};
  const options = { headers };
  if (body !== undefined) {
    options.method = "POST";
    options.body = JSON.stringify(body);
    headers["Content-Type"] = "application/json";
  }
  let answer;
  try {
    answer = await fetch(path, options);
  } catch {
    throw new Error("the server does not answer; is it still running?");
  }
  if (answer.status === 401) {
    at("token-part").hidden = false;
    at("token").focus();
    throw new Error("give the token of this server");
  }
  const content = await answer.json().catch(() => null);
  if (!answer.ok) throw new Error(content?.error?.message ?? `the server answered ${answer.status}`);
  return content;
}

function say(where, text, isWrong = false) {
  at(where).textContent = text;
  at(where).classList.toggle("wrong", isWrong);
}

/** Run work that may fail; what went wrong is said in words. */
async function telling(where, work) {
  try {
    await work();
  } catch (error) {
    say(where, `Sorry: ${error.message}`, true);
  }
}

function after(milliseconds, work) {
  let timer;
  return () => {
    clearTimeout(timer);
    timer = setTimeout(work, milliseconds);
  };
}

/** A way to run work of which only the latest counts: what was overtaken gives nothing, be it an answer or a failure. */
function onlyLatest() {
  let last = 0;
  return async (work) => {
    const number = ++last;
    try {
      const result = await work();
      return number === last ? result : undefined;
    } catch (error) {
      if (number === last) throw error;
    }
  };
}
const ofUsers = onlyLatest();
const ofSearches = onlyLatest();
const ofLists = onlyLatest();

async function open() {
  const about = await ask("v1/domains");
  state.domains = about.domains;
  state.ready = true;
  at("token-part").hidden = true;
  at("bundle").textContent = `bundle ${about.bundle}, made ${about.created.slice(0, 10)}`;
  at("domains").replaceChildren(...about.domains.map((domain, place) =>
    element("label", {},
      element("input", { type: "checkbox", name: "domain", value: domain.name, checked: place < 2 }),
      ` ${domain.name} (${domain.num_items.toLocaleString("en")} items)`)));
  at("history-domain").replaceChildren(...about.domains.map(({ name }) => element("option", { text: name, value: name })));
  at("history-choice").hidden = !about.reads_history;
  say("said", "");
  await suggestUsers();
  if (!at("user").value) at("user").value = at("users").firstElementChild?.value ?? "";
}

/** Lists of some user are there before anything is asked for. */
async function begin() {
  await open();
  if (at("user").value) await recommend();
}

async function suggestUsers() {
  const prefix = encodeURIComponent(at("user").value);
  const users = await ofUsers(async () => (await ask(`v1/users?limit=20&prefix=${prefix}`)).users);
  if (users) at("users").replaceChildren(...users.map((user) => element("option", { value: user })));
}

async function findItems() {
  const text = at("search").value.trim();
  const domain = at("history-domain").value;
  const query = `v1/items?limit=8&domain=${encodeURIComponent(domain)}&q=${encodeURIComponent(text)}`;
  const items = await ofSearches(async () => (text ? (await ask(query)).items : []));
  if (!items) return;
  const said = items.length ? `${items.length} found; choose one to add it` : "nothing found in this domain";
  say("search-said", text ? said : "");
  at("found").replaceChildren(...items.map((item) => element("li", {}, element("button", {
    type: "button",
    text: item.title ? `${item.title} (${item.item})` : item.item,
    onclick: () => { state.taken.push({ ...item, domain }); showTaken(); },
  }))));
}

function showTaken() {
  at("taken").replaceChildren(...state.taken.map((item, place) => element("li", {},
    `${item.title ?? item.item} in ${item.domain}`,
    element("button", {
      type: "button", text: "remove", ariaLabel: `remove ${item.title ?? item.item}`,
      onclick: () => { state.taken.splice(place, 1); showTaken(); at("search").focus(); },
    }))));
}

const BASES = {
  user_history: "by the user's history", recent_events: "by what the user took just now",
  given_history: "by the history above", popular: "popular items: nothing is known of this user here",
};

function list(title, items, score, shown) {
  const lines = items.slice(0, shown).map((item) => element("li", {},
    element("span", { className: "name", text: item.title ?? item.item }),
    element("span", { className: "number", text: score(item) }),
    element("span", { className: "more", text: details(item) })));
  return element("section", {}, element("h3", { text: title }), element("ol", { ariaLabel: title }, ...lines));
}

function details(item) {
  const known = Object.entries(item.attributes).map(([name, value]) => `${name}: ${[].concat(value).join(", ")}`);
  return [item.title ? item.item : "", ...known].filter(Boolean).join(" · ");
}

function weights(title, named) {
  const most = Math.max(...Object.values(named).map(Math.abs), 1e-9);
  const lines = Object.entries(named).flatMap(([name, value]) => [
    element("span", { text: name }),
    element("meter", { min: 0, max: most, value: Math.abs(value), ariaLabel: `${name}: ${value.toFixed(3)}` }),
    element("span", { className: "number", text: value.toFixed(3) })]);
  return [element("h4", { text: title }), element("div", { className: "weights" }, ...lines)];
}

function why(answer, shown) {
  const parts = answer.field_weights ? weights("How much retrieval lets of each user field through", answer.field_weights) : [];
  if (answer.part_weights) parts.push(...weights("Parts of retrieval's network for this user", answer.part_weights));
  for (const item of answer.items.slice(0, shown)) {
    if (item.part_weights) parts.push(...weights(`${item.title ?? item.item}: parts of the click model`, item.part_weights));
    if (item.other_domains) parts.push(...weights(`${item.title ?? item.item}: taken from other domains`, item.other_domains));
  }
  if (!parts.length) parts.push(element("p", { text: "These models have no gates that would tell." }));
  return element("details", { className: "why" }, element("summary", { text: "Why" }), ...parts);
}

function show(answer, shown) {
  const times = ["read", "retrieve", "rank", "show", "total"].map((stage) => `${stage} ${answer.timings_ms[stage].toFixed(1)} ms`);
  const isRanked = answer.ordered_by === "click_probability";
  const retrieved = [...answer.items].sort((a, b) => a.retrieval_rank - b.retrieval_rank);
  const lists = isRanked
    ? [list("Retrieved", retrieved, (item) => item.retrieval_score.toFixed(3), shown),
       list("Ranked", answer.items, (item) => `${(100 * item.score).toFixed(2)} % (was ${item.retrieval_rank})`, shown)]
    : [list(answer.basis === "popular" ? "Popular" : "Retrieved", answer.items, (item) => item.score.toFixed(4), shown)];
  return element("section", { className: "domain", ariaLabel: answer.domain },
    element("h2", { text: answer.domain }),
    element("p", { text: `${BASES[answer.basis]} · ${times.join(", ")}` }),
    element("div", { className: "lists" }, ...lists), why(answer, shown));
}

async function recommend() {
  if (!state.ready) await open();
  const chosen = [...document.querySelectorAll("input[name=domain]:checked")].map((box) => box.value);
  if (!chosen.length) throw new Error("choose a domain");
  const shown = at("shown").valueAsNumber;
  if (!(shown >= 1 && shown <= 50)) throw new Error("items shown: give a number from 1 to 50");
  const isHistory = document.querySelector("input[name=who]:checked").value === "history";
  const user = at("user").value.trim();
  if (!isHistory && !user) throw new Error("give a user, or put a history together");
  if (isHistory && !state.taken.length) throw new Error("find an item and add it to the history");
  const who = isHistory ? { history: state.taken.map(({ item, domain }) => ({ item, domain })) } : { user };
  say("said", "Asking …");
  const answers = await ofLists(() => Promise.all(chosen.map((domain) => {
    const { num_candidates: all } = state.domains.find((one) => one.name === domain);
    return ask("v1/recommend", { domain, k: Math.max(shown, Math.min(all, 1000)), explain: true, ...who });
  })));
  if (!answers) return;
  at("results").replaceChildren(...answers.map((answer) => show(answer, shown)));
  say("said", `Lists of ${answers.map((answer) => answer.domain).join(", ")} are shown.`);
}

at("ask").addEventListener("submit", (event) => {
  event.preventDefault();
  at("go").disabled = true;
  telling("said", recommend).finally(() => { at("go").disabled = false; });
});
at("use-token").addEventListener("click", () => {
  state.token = at("token").value;
  sessionStorage.setItem("isthmus-token", state.token);
  telling("said", begin);
});
at("user").addEventListener("input", after(150, () => telling("said", suggestUsers)));
at("search").addEventListener("input", after(200, () => telling("search-said", findItems)));
at("history-domain").addEventListener("change", () => telling("search-said", findItems));
for (const choice of document.querySelectorAll("input[name=who]")) {
  choice.addEventListener("change", () => {
    at("user-part").hidden = choice.value === "history";
    at("history-part").hidden = choice.value !== "history";
  });
}
telling("said", begin);
