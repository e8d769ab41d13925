// An orchestrator in Node, without packages: the minimum of the protocol. It creates one stack of the template below.
//
// It serves PUT, GET and DELETE at /orchestrator/default, and actions there; it sends `renew` and `report` to the service manager,
// and stacks to deploy. A phase is answered at once, carried out once, and its report is retried until it is acknowledged.

import crypto from 'node:crypto';
import http from 'node:http';

const ENV = process.env;
const PREFIX = 'org.archelon.';
const ORCHESTRATOR = 'http://schemas.mobile-cloud-networking.eu/occi/service#';
const SERVICE_MANAGER = 'http://schemas.archelon.org/occi/service-manager#';
const DEPLOY = 'http://schemas.archelon.org/occi/deploy#';
const PATH = '/orchestrator/default';
const PHASES = ['deploy', 'provision', 'update', 'stop', 'start'];
const EVENTS = ['stack', 'alarm', 'tick', 'dependency'];
const MEDIA_TYPE = 'application/occi+json';
const BODY_LIMIT = 1 << 20;
const TEMPLATE = `
infra_name: plain
nodes:
  - {name: web, type: page}
outputs:
  plain.url: {value: "http://\${nodes.web.address}:\${nodes.web.port}/"}
'node_def:page':
  - resource:
      type: process
      command: [python3, -m, http.server, --bind, "\${self.address}", "\${self.port}"]
      ports: [http]
    health_check: {urls: ["http://\${self.address}:\${self.port}/"]}
`;

const instance = ENV.ARCHELON_INSTANCE;
let tokens = {};
let order = null; // as activated: tenant, service, generation
let remembered = { events: [] }; // returned by the service manager after a restart
let current = null;
const runs = new Map(); // `${generation}/${phase}` to { state, report }

class Refused extends Error {
  constructor(status, text) {
    super(text);
    this.status = status;
  }
}

// --- callers: JSON Web Tokens (RFC 7519), signed with one of the environment's keys -------------------------------------------------

const keys = new Map(JSON.parse(ENV.ARCHELON_KEYS).keys.map((key) => [key.kid, key]));

function caller(request) {
  const [, token] = /^Bearer (\S+)$/.exec(request.headers.authorization ?? '') ?? [];
  const parts = token?.split('.') ?? [];
  if (parts.length !== 3) throw new Refused(401, 'a token is required');
  let claims;
  try {
    const decoded = parts.slice(0, 2).map((part) => JSON.parse(Buffer.from(part, 'base64url')));
    const key = keys.get(decoded[0].kid);
    const algorithm = key.alg === 'EdDSA' ? null : 'sha256';
    const publicKey = crypto.createPublicKey({ key, format: 'jwk' });
    const signed = Buffer.from(parts.slice(0, 2).join('.'));
    const signature = Buffer.from(parts[2], 'base64url');
    const options = { key: publicKey, dsaEncoding: 'ieee-p1363' };
    if (!crypto.verify(algorithm, signed, options, signature)) throw new Error('signature');
    claims = decoded[1];
    if (claims.iss !== key.iss) throw new Error('issuer');
  } catch {
    throw new Refused(401, 'the token does not verify');
  }
  const now = Date.now() / 1000;
  if (!(claims.exp + 5 > now && claims.nbf <= now + 5)) throw new Refused(401, 'the token has expired');
  if (claims.aud !== `orchestrator:${instance}`) throw new Refused(401, 'the token is for another audience');
  if (claims.instance && claims.instance !== instance) throw new Refused(403, 'the token is another instance’s');
  if (order && claims.tenant !== order.tenant) throw new Refused(403, 'the token is another tenant’s');
  return claims;
}

// --- calls ------------------------------------------------------------------------------------------------------------------------

const pause = (seconds) => new Promise((resolve) => setTimeout(resolve, seconds * 1000));

async function call(method, url, token, body) {
  const headers = { Authorization: `Bearer ${token}`, 'Content-Type': MEDIA_TYPE, Accept: MEDIA_TYPE };
  const options = { method, headers, signal: AbortSignal.timeout(20000), redirect: 'error' };
  const answer = await fetch(url, { ...options, body: body && JSON.stringify(body) });
  const text = await answer.text();
  return { status: answer.status, body: text && answer.ok ? JSON.parse(text) : null };
}

async function renew() {
  const action = { action: `${SERVICE_MANAGER}renew` };
  for (let seconds = 0.1; ; seconds = Math.min(seconds * 2, 5)) {
    // The start token tells the service manager that this process has no state: use it at the start, and if all others expired.
    for (const token of new Set([tokens['service-manager'] ?? ENV.ARCHELON_TOKEN, ENV.ARCHELON_TOKEN])) {
      try {
        const answer = await call('POST', `${ENV.ARCHELON_SERVICE_MANAGER}?action=renew`, token, action);
        if (answer.body) {
          tokens = answer.body.attributes[`${PREFIX}tokens`];
          return;
        }
      } catch {
        // Unavailable; retry.
      }
    }
    await pause(seconds);
  }
}

async function report(attributes) {
  const body = { action: `${SERVICE_MANAGER}report`, attributes };
  for (let seconds = 0.1; ; seconds = Math.min(seconds * 2, 5)) {
    try {
      const url = `${ENV.ARCHELON_SERVICE_MANAGER}?action=report`;
      const { status } = await call('POST', url, tokens['service-manager'], body);
      if (status === 401) await renew();
      else if (status < 500 && status !== 429) return;
    } catch {
      // Unavailable; retry.
    }
    await pause(seconds);
  }
}

async function cloud(method, url, body) {
  for (let renewed = false; ; renewed = true) {
    const answer = await call(method, url, tokens['cloud-controller'], body);
    if (answer.status === 401 && !renewed) await renew();
    else return answer;
  }
}

// --- phases -----------------------------------------------------------------------------------------------------------------------

let deploy = null;

async function stackUrl() {
  if (!deploy) {
    const { body } = await cloud('GET', `${ENV.ARCHELON_DESIGN}/service/?page=1&number=100`);
    const entries = body.resources.map((each) => each.attributes);
    deploy = entries.find((each) => each[`${PREFIX}service.type`] === DEPLOY);
    if (!deploy) throw new Error('the catalogue lists no deploy module');
  }
  // The path is derived (RFC 9562, 5.5), so that a repeated order finds the stack.
  const id = uuid5(uuid5('6ba7b811-9dad-11d1-80b4-00c04fd430c8', 'http://schemas.archelon.org/occi/'),
    [instance, 'plain', deploy[`${PREFIX}service.region`]].join('\0'));
  return `${deploy[`${PREFIX}service.endpoint`]}/stack/${id}`;
}

function uuid5(namespace, name) {
  const bytes = Buffer.from(namespace.replaceAll('-', ''), 'hex');
  const hash = crypto.createHash('sha1').update(bytes).update(name).digest().subarray(0, 16);
  hash[6] = (hash[6] & 0x0f) | 0x50;
  hash[8] = (hash[8] & 0x3f) | 0x80;
  return hash.toString('hex').replace(/^(.{8})(.{4})(.{4})(.{4})(.{12})$/, '$1-$2-$3-$4-$5');
}

async function settled(url, run) {
  for (let seconds = 0.2; ; seconds = Math.min(seconds * 1.6, 5)) {
    if (run.state !== 'running') throw new Error('cancelled');
    const { status, body } = await cloud('GET', url);
    if (status === 404) return null;
    const { [`${PREFIX}stack.state`]: state, [`${PREFIX}stack.reason`]: reason } = body.attributes;
    if (/FAILED|ROLLBACK/.test(state)) throw new Error(`the stack is ${state}: ${reason ?? 'no reason given'}`);
    if (!state.endsWith('IN_PROGRESS')) return body.attributes;
    await pause(seconds);
  }
}

async function carryOut(phase, generation, run) {
  const url = await stackUrl();
  if (phase === 'destroy') {
    await cloud('DELETE', url);
  } else if (phase === 'stop' || phase === 'start') {
    const term = phase === 'stop' ? 'suspend' : 'resume';
    await cloud('POST', `${url}?action=${term}`, { action: DEPLOY + term, attributes: {} });
  } else {
    const attributes = {
      instance,
      service: order.service,
      generation,
      'stack.name': 'plain',
      region: deploy[`${PREFIX}service.region`],
      'stack.format': 'infrastructure',
      'stack.template': TEMPLATE,
    };
    const named = Object.fromEntries(Object.entries(attributes).map(([name, value]) => [PREFIX + name, value]));
    const { status } = await cloud('PUT', url, { kind: `${DEPLOY}stack`, attributes: named });
    if (status >= 300) throw new Error(`deploy rejected the stack with ${status}`);
  }
  return settled(url, run);
}

async function runPhase(phase, generation, run) {
  const outcome = { [`${PREFIX}generation`]: generation, [`${PREFIX}phase`]: phase };
  try {
    const stack = await carryOut(phase, generation, run);
    outcome[`${PREFIX}phase.state`] = 'done';
    outcome[`${PREFIX}outputs`] = stack?.[`${PREFIX}stack.outputs`] ?? {};
    if (stack) outcome['occi.mcn.stack.state'] = stack[`${PREFIX}stack.state`];
  } catch (error) {
    outcome[`${PREFIX}phase.state`] = 'failed';
    outcome[`${PREFIX}phase.message`] = error.message;
  }
  // Superseded by a newer order: do not report.
  if (run.state !== 'running') return;
  outcome[`${PREFIX}private`] = remembered;
  run.state = outcome[`${PREFIX}phase.state`];
  run.report = outcome;
  report(outcome);
}

function begin(phase, generation) {
  if (generation < order.generation) {
    throw new Refused(409, `generation ${generation} is older than the last, ${order.generation}`);
  }
  const key = `${generation}/${phase}`;
  const run = runs.get(key);
  if (run && run.state !== 'failed') {
    if (run.report) report(run.report);
    return;
  }
  if (current?.phase === 'destroy' && phase !== 'destroy') throw new Refused(409, 'the instance is being destroyed');
  if (current?.run.state === 'running') {
    if (phase !== 'destroy' && generation === current.generation) throw new Refused(409, `${current.phase} is in progress`);
    current.run.state = 'failed';
  }
  order.generation = generation;
  const fresh = { state: 'running', report: null };
  runs.set(key, fresh);
  current = { phase, generation, run: fresh };
  runPhase(phase, generation, fresh);
}

// --- requests ---------------------------------------------------------------------------------------------------------------------

function activate(attributes, claims) {
  const given = (name) => attributes[PREFIX + name];
  if (given('instance') !== instance) throw new Refused(409, `this is the orchestrator of ${instance}`);
  if (given('tenant') !== claims.tenant) throw new Refused(403, 'the token is another tenant’s');
  if (order && given('generation') < order.generation) throw new Refused(409, 'the generation is older than the last');
  tokens = given('tokens') ?? tokens;
  const created = order === null;
  if (created) remembered = { events: [], ...given('private') };
  order = { tenant: given('tenant'), service: given('service'), generation: given('generation') };
  return created ? 201 : 200;
}

function act(term, attributes) {
  const given = (name) => attributes[PREFIX + name];
  if (PHASES.includes(term)) return begin(term, given('generation'));
  if (term !== 'notify') throw new Refused(400, `unknown action ${term}`);
  if (!EVENTS.includes(given('event.type'))) throw new Refused(400, `event.type: expected one of ${EVENTS.join(', ')}`);
  // Each event is processed once. This orchestrator does nothing for events (its waits poll), so it may respond with 200 at once.
  // Otherwise respond with 503 and Retry-After until the event is processed and the report with its id is acknowledged.
  if (!remembered.events.includes(given('event.id'))) remembered.events = [...remembered.events.slice(-255), given('event.id')];
}

function shown() {
  const attributes = Object.fromEntries(['tenant', 'service', 'generation'].map((name) => [PREFIX + name, order[name]]));
  return { kind: `${ORCHESTRATOR}orchestrator`, id: PATH, attributes: { [`${PREFIX}instance`]: instance, ...attributes } };
}

async function bodyOf(request) {
  const pieces = [];
  let size = 0;
  for await (const piece of request) {
    size += piece.length;
    if (size > BODY_LIMIT) throw new Refused(413, `a body has at most ${BODY_LIMIT} bytes`);
    pieces.push(piece);
  }
  try {
    return size ? JSON.parse(Buffer.concat(pieces)) : {};
  } catch {
    throw new Refused(400, 'the body is not JSON');
  }
}

async function serve(request) {
  const url = new URL(request.url, 'http://localhost');
  if (['/healthz', '/readyz'].includes(url.pathname)) return { status: 200, body: { status: 'ok' } };
  const claims = caller(request);
  const body = await bodyOf(request);
  if (url.pathname !== PATH) throw new Refused(404, `an orchestrator has one entity, at ${PATH}`);
  if (request.method === 'PUT') return { status: activate(body.attributes ?? {}, claims), body: shown() };
  if (!order) throw new Refused(404, 'not activated yet');
  if (request.method === 'POST') act(url.searchParams.get('action'), body.attributes ?? {});
  else if (request.method === 'DELETE') {
    begin('destroy', order.generation);
    return { status: 204 };
  } else if (request.method !== 'GET') throw new Refused(405, 'GET, PUT, POST and DELETE are served');
  return { status: 200, body: shown() };
}

http
  .createServer(async (request, response) => {
    let answer;
    try {
      answer = await serve(request);
    } catch (error) {
      if (!(error instanceof Refused)) console.error(error);
      answer = { status: error.status ?? 500, body: { error: error.status ? error.message : 'internal error' } };
    }
    const headers = { 'Content-Type': MEDIA_TYPE };
    if (answer.status === 201) headers.Location = PATH;
    if (answer.status === 401) headers['WWW-Authenticate'] = 'Bearer realm="orchestrator"';
    response.writeHead(answer.status, headers).end(answer.body && JSON.stringify(answer.body));
  })
  .listen(Number(ENV.PORT ?? 8080), ENV.HOST ?? '127.0.0.1', renew);
