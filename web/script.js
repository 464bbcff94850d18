(() => {
"use strict";
const root = document.documentElement, at = id => document.getElementById(id);
const rows = at("rows"), filter = at("filter"), live = at("live"), said = at("said");
const times = document.getElementsByTagName("time"), inside = "a,button,input,summary";
let version = root.dataset.v, skew = root.dataset.now - Date.now(), pause = 1000, token = "";
root.classList.add("js");

// How long it is to a moment of the server's clock; the browser's may be wrong.
const left = s => s <= 0 ? "now" : "in " + (
	s < 60 ? s + "s" :
	s < 3600 ? (s / 60 | 0) + "m " + s % 60 + "s" :
	s < 86400 ? (s / 3600 | 0) + "h " + (s % 3600 / 60 | 0) + "m" :
	(s / 86400 | 0) + "d " + (s % 86400 / 3600 | 0) + "h");
const tick = () => {
	const now = Date.now() + skew;
	for (const t of times) {
		if (!t.dataset.e) continue;
		const text = left(Math.round((t.dataset.e - now) / 1000));
		if (t.textContent === text) continue;
		t.title = t.dateTime;
		t.textContent = text;
	}
};

const matches = tr => {
	const text = [...tr.cells].slice(0, 4).map(c => c.textContent).join(" ").toLowerCase();
	return filter.value.toLowerCase().split(/\s+/).every(w => text.includes(w));
};
const search = () => {
	let n = 0;
	for (const tr of rows.rows) if (!(tr.hidden = !matches(tr))) n++;
	at("shown").textContent = filter.value.trim() ? n + " shown" : "";
};
let searching;
filter.addEventListener("input", () => { clearTimeout(searching); searching = setTimeout(search, 120); });
document.addEventListener("keydown", e => {
	if (e.key !== "/" || e.ctrlKey || e.metaKey || e.altKey || /^(INPUT|SELECT)$/.test(e.target.tagName)) return;
	e.preventDefault();
	filter.focus();
});

// Whoever was at something that is replaced is at the same thing after it.
const keep = change => {
	const a = document.activeElement, box = a && a.closest("[id]");
	const n = box ? [...box.querySelectorAll(inside)].indexOf(a) : -1;
	change();
	if (!box || document.activeElement === a) return;
	const b = at(box.id), to = b && (n < 0 ? b : b.querySelectorAll(inside)[n]);
	if (to) to.focus({preventScroll: true});
};
const put = (id, html, previous) => {
	const t = document.createElement("template");
	t.innerHTML = html;
	const tr = t.content.firstElementChild, old = at(id), p = previous ? at(previous) : null;
	if (old && old.previousElementSibling === p) old.replaceWith(tr);
	else {
		if (old) old.remove();
		if (p) p.after(tr); else rows.prepend(tr);
	}
	tr.hidden = !matches(tr);
};
const part = (id, html) => {
	const box = at(id), open = [...box.querySelectorAll("details")].map(d => d.open);
	box.innerHTML = html;
	box.querySelectorAll("details").forEach((d, i) => { d.open = open[i]; });
};
const say = (text, is) => {
	if (live.textContent === text) return;
	live.textContent = text;
	live.className = is;
};
// Lists all anew where lines were lost, and goes on. Another process may have another script: its page is loaded.
const anew = async () => {
	for (let wait = 500; ; wait = Math.min(2 * wait, 30000)) {
		try {
			const r = await fetch("/", {cache: "no-store"});
			if (r.ok) {
				const d = new DOMParser().parseFromString(await r.text(), "text/html"), v = d.documentElement.dataset.v;
				if (v.split("-")[0] !== version.split("-")[0]) break;
				version = v;
				keep(() => {
					for (const id of ["sum", "wrong", "plot", "count", "gateway"]) part(id, d.getElementById(id).innerHTML);
					rows.innerHTML = d.getElementById("rows").innerHTML;
				});
				search();
				tick();
				return follow();
			}
		} catch { /* not yet */ }
		await new Promise(done => setTimeout(done, wait * (1 + Math.random())));
	}
	location.reload();
};
const take = e => {
	if (e.now) skew = Date.parse(e.now) - Date.now();
	switch (e.type) {
	case "hello":
		pause = 1000;
		say("Live", "on");
		break;
	case "lost":
		anew();
		return false;
	case "rows":
		keep(() => {
			for (const id of e.del || []) { const tr = at(id); if (tr) tr.remove(); }
			for (const [id, html, previous] of e.put || []) put(id, html, previous);
		});
		for (const [id, flows, hits] of e.cells || []) {
			const tr = at(id);
			if (!tr) continue;
			tr.cells[4].textContent = flows;
			tr.cells[5].textContent = hits;
		}
		break;
	case "part":
		keep(() => part(e.id, e.html));
		break;
	}
	if (e.version) version = e.version;
	return true;
};
const follow = async () => {
	try {
		const r = await fetch("/v1/events?page&since=" + encodeURIComponent(version), {cache: "no-store"});
		if (!r.ok) throw r.status;
		const reader = r.body.pipeThrough(new TextDecoderStream()).getReader();
		for (let rest = ""; ;) {
			const {value, done} = await reader.read();
			if (done) break;
			const lines = (rest + value).split("\n");
			rest = lines.pop();
			for (const l of lines) if (l && !take(JSON.parse(l))) return;
			tick();
		}
	} catch { /* the same as an end */ }
	say("Not live: connecting again", "off");
	setTimeout(follow, pause);
	pause = Math.min(2 * pause, 30000);
};

// Changes. The token is in the memory of this page alone.
const send = async (method, path, doc) => {
	const headers = {Authorization: "Bearer " + token};
	if (doc) headers["Content-Type"] = "application/json";
	try {
		const r = await fetch(path, {method, headers, body: doc && JSON.stringify(doc), cache: "no-store"});
		said.textContent = r.ok ? "" : (await r.json()).detail;
		if (r.status === 401) lock(true);
		return r.ok;
	} catch (e) {
		said.textContent = String(e);
		return false;
	}
};
const lock = locked => {
	root.classList.toggle("unlocked", !locked);
	at("unlock").hidden = !locked;
	at("add").hidden = locked;
};
if (said) {
	at("unlock").addEventListener("submit", async e => {
		e.preventDefault();
		token = at("token").value;
		if (!await send("GET", "/v1/token")) return;
		at("token").value = "";
		lock(false);
		at("frontend").focus();
	});
	at("add").addEventListener("submit", async e => {
		e.preventDefault();
		const doc = {};
		for (const id of ["proto", "frontend", "backend", "name", "ttl"]) if (at(id).value) doc[id] = at(id).value.trim();
		if (await send("POST", "/v1/mappings", doc)) {
			e.target.reset();
			at("frontend").focus();
		}
	});
	document.addEventListener("click", async e => {
		const b = e.target.closest(".rm");
		if (!b || !confirm(b.getAttribute("aria-label") + "?")) return;
		b.disabled = true;
		await send("DELETE", b.dataset.d);
		b.disabled = false;
	});
}
if (filter.value) search();
tick();
setInterval(tick, 1000);
follow();
})();
