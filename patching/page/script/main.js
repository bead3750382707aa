// Begin: show the result in the page, or follow what one types.
import { add } from "./dom.js";
import { showLive } from "./live.js";
import { showPage } from "./page.js";

const given = JSON.parse(document.getElementById("data").textContent);
const root = add(document.body, "main");
if (given.live) showLive(root, given);
else showPage(root, given);
