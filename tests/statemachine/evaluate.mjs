// Evaluates JSONata with the reference implementation. Reads a JSON list of {expression, bindings} from standard input,
// writes a list of {value}, {undefined: true} or {error: "..."} in the same order.
import { readFileSync } from "node:fs";
import jsonata from "jsonata";

const answer = async ({ expression, bindings }) => {
  try {
    const value = await jsonata(expression).evaluate(undefined, bindings);
    if (value === undefined || typeof value === "function") return { undefined: true };
    return { value };
  } catch (error) {
    return { error: error.message ?? String(error) };
  }
};

const cases = JSON.parse(readFileSync(0, "utf8"));
process.stdout.write(JSON.stringify(await Promise.all(cases.map(answer))));
