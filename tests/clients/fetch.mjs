// Node's fetch: asks what the lines of a plan say, and prints what it read, a line each.

import { readFileSync } from "node:fs";

const base64 = (text) => Buffer.from(text).toString("base64");

for (const line of readFileSync(process.argv[2], "utf8").trim().split("\n")) {
  const [url, file, ...fields] = line.split("\t");
  const answer = await fetch(url, {
    method: "POST",
    headers: fields.map((field) => field.split(/: (.*)/s).slice(0, 2)),
    body: readFileSync(file),
  });
  const body = Buffer.from(await answer.arrayBuffer());
  const headers = [...answer.headers].map(([name, value]) => `${name}: ${value}\n`).join("");
  console.log([answer.status, base64(headers), base64(body)].join("\t"));
}
