/** panva's oidc-provider, an OpenID certified one, as an operator would set it up: with the forms that
 * come with it, where anybody's name is let in. Its options are JSON on the command line; it prints
 * the port that it listens on. POST /groups?NAME=a,b puts people into groups.
 */
import { createServer } from "node:http";
import { generateKeyPairSync } from "node:crypto";
import { Provider } from "oidc-provider";

const { port, clients, algorithm, inToken } = JSON.parse(process.argv[2]);
const kind = { RS256: ["rsa", { modulusLength: 2048 }], ES256: ["ec", { namedCurve: "P-256" }] }[algorithm];
const key = generateKeyPairSync(...kind).privateKey.export({ format: "jwk" });
const groups = {};

const server = createServer();
server.listen(port, "127.0.0.1", () => {
  const issuer = `http://127.0.0.1:${server.address().port}`;
  const provider = new Provider(issuer, {
    clients: clients.map((one) => ({ ...one, id_token_signed_response_alg: algorithm })),
    jwks: { keys: [{ ...key, use: "sig", alg: algorithm, kid: `${algorithm}-${process.pid}` }] },
    claims: { openid: ["sub"], email: ["email", "email_verified"], profile: ["name"], groups: ["groups"] },
    conformIdTokenClaims: !inToken,
    cookies: { keys: ["of the tests"] },
    enabledJWA: { idTokenSigningAlgValues: ["RS256", "ES256"] },
    findAccount: (_, id) => ({
      accountId: id,
      claims: () => ({
        sub: id, email: `${id}@example.com`, email_verified: true, name: id, groups: groups[id] ?? [],
      }),
    }),
  });
  const answer = provider.callback();
  server.on("request", (request, response) => {
    const asked = new URL(request.url, issuer);
    if (request.method !== "POST" || asked.pathname !== "/groups") return answer(request, response);
    for (const [name, list] of asked.searchParams) groups[name] = list.split(",").filter(Boolean);
    response.end();
  });
  console.log(server.address().port);
});
process.stdin.resume().on("end", () => process.exit());
