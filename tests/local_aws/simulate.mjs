// Decides requests with @cloud-copilot/iam-simulate. Reads a list of requests as JSON from standard input, each with the
// principal's policies, and writes a list of decisions: what it calls each result, or why it refuses to decide.
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";

const { runSimulation } = createRequire(import.meta.url)("@cloud-copilot/iam-simulate");
const account = "123456789012";
const decided = [];
for (const { policies, action, resource, context } of JSON.parse(readFileSync(0, "utf8"))) {
  const { resultType, overallResult, errors } = await runSimulation(
    {
      request: {
        principal: `arn:aws:sts::${account}:assumed-role/x/s`,
        action,
        resource: { resource, accountId: account },
        contextVariables: context,
      },
      identityPolicies: policies.map((policy, index) => ({ name: `p${index}`, policy })),
      serviceControlPolicies: [],
      resourceControlPolicies: [],
    },
    {},
  );
  decided.push(resultType === "error" ? JSON.stringify(errors) : overallResult);
}
process.stdout.write(JSON.stringify(decided));
