// Checks a state machine with asl-validator. Reads the definition as JSON from standard input, writes the result.
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";

const validate = createRequire(import.meta.url)("asl-validator");
const { isValid, errors } = validate(JSON.parse(readFileSync(0, "utf8")));
process.stdout.write(JSON.stringify({ isValid, errors: errors.map((error) => error.message ?? String(error)) }));
