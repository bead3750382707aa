// How the page's script is linted: npx eslint --config .ci/eslint.config.mjs patching/page/script
const browser = ["document", "window", "atob", "Blob", "URL", "URLSearchParams", "matchMedia",
  "getComputedStyle", "fetch", "AbortController", "TextDecoder", "history", "location", "performance",
  "crypto", "navigator", "setTimeout", "clearTimeout", "vegaEmbed"];

export default [
  {
    files: ["**/*.js"],
    languageOptions: {
      ecmaVersion: 2022,
      sourceType: "module",
      globals: Object.fromEntries(browser.map((name) => [name, "readonly"])),
    },
    linterOptions: { reportUnusedDisableDirectives: "error" },
    rules: {
      "constructor-super": "error", "for-direction": "error", "getter-return": "error",
      "no-cond-assign": "error", "no-const-assign": "error", "no-constant-condition": "error",
      "no-dupe-args": "error", "no-dupe-else-if": "error", "no-dupe-keys": "error",
      "no-duplicate-case": "error", "no-empty": "error", "no-fallthrough": "error",
      "no-func-assign": "error", "no-redeclare": "error", "no-self-assign": "error",
      "no-undef": "error", "no-unreachable": "error", "no-unsafe-finally": "error",
      "no-unused-vars": "error", "no-var": "error", "prefer-const": "error", eqeqeq: "error",
      "no-eval": "error", "no-implied-eval": "error", "no-new-func": "error", "no-shadow": "error",
      "no-restricted-properties": ["error",
        { property: "innerHTML", message: "texts come from outside: use textContent" },
        { property: "outerHTML", message: "texts come from outside: use textContent" },
        { property: "insertAdjacentHTML", message: "texts come from outside: use textContent" }],
      "max-lines": ["error", 400], "max-lines-per-function": ["error", 220],
    },
  },
];
