// Builds src/butwait/view/static from the sources here: one script, one style sheet, one font, one page.
import { copyFileSync, mkdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { build } from "esbuild";

const here = dirname(fileURLToPath(import.meta.url));
const out = join(here, "..", "src", "butwait", "view", "static");
const packages = join(here, "node_modules");

rmSync(out, { recursive: true, force: true });
mkdirSync(out, { recursive: true });
await build({
  absWorkingDir: here,
  entryPoints: { app: "src/app.js", style: "src/style.css" },
  outdir: out,
  bundle: true,
  minify: true,
  format: "iife",
  target: ["chrome109", "firefox115", "safari16.4"],
  charset: "utf8",
  legalComments: "none",
  external: ["*.woff2"],
  loader: { ".css": "css" },
});
for (const name of ["index.html", "icon.svg"]) copyFileSync(join(here, "src", name), join(out, name));
copyFileSync(join(packages, "@fontsource-variable/inter/files/inter-latin-wght-normal.woff2"), join(out, "inter.woff2"));

// The licences of what is shipped, in full.
const shipped = ["lit-html", "uplot", "@fontsource-variable/inter"];
const licences = shipped.map((name) => {
  const version = JSON.parse(readFileSync(join(packages, name, "package.json"), "utf8")).version;
  return `${name} ${version}\n\n${readFileSync(join(packages, name, "LICENSE"), "utf8").trim()}\n`;
});
writeFileSync(join(out, "licences.txt"), licences.join(`\n${"-".repeat(80)}\n\n`));
