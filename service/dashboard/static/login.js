// A link that signs in has its code behind the #, which is sent to no server and noted in no history.
"use strict";

const code = new URLSearchParams(location.hash.slice(1)).get("code");
if (code) {
  history.replaceState(null, "", location.pathname + location.search);
  document.getElementById("code").value = code;
  document.querySelector("form.login").submit();
}
