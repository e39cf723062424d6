// The REST API for people and their tools: JSON, on its own listener, never on the boot LAN.
import { basename } from 'node:path';
import type { FastifyInstance } from 'fastify';
import { parseMac } from '../addr.ts';
import { isHeld } from '../boot/hold.ts';
import { nextOf } from '../boot/next.ts';
import { NEXTS, type Next, type Node } from '../boot/node.ts';
import type { BootSet, Generation } from '../boot/profile.ts';
import { quirkWords, sentBy } from '../boot/quirks.ts';
import { sshKeysOf } from '../boot/session.ts';
import { stageOf, type Boot } from '../boot/timeline.ts';
import { quirksOfNode } from '../boot-quirks.ts';
import { AppError } from '../errors.ts';
import { nearest } from '../config/faults.ts';
import type { Swap } from '../config/generations.ts';
import type { PlanAnswer } from '../config/planned.ts';
import { isProfileName, type ProfileFile } from '../config/profiles.ts';
import type { Discovered } from '../discovered.ts';
import type { DriftView } from '../drift.ts';
import { siteHistory, nodeHistory } from '../history.ts';
import type { LoaderSets } from '../loader-sets.ts';
import type { Metrics } from '../metrics.ts';
import type { ArtifactStore } from '../store/artifacts.ts';
import type { BootStore } from '../store/boots.ts';
import { NODE_NEXT, NODE_RELEASED, type EventStore } from '../store/events.ts';
import type { HostKeys } from '../store/host-keys.ts';
import type { NodeStore } from '../store/nodes.ts';
import { dhcpRoutes, type DhcpAdmin } from './dhcp.ts';
import { leaseRoutes, type LeaseAdmin } from './leases.ts';

/** One thing that keeps the daemon from being as good as it should be. */
export interface Reason {
  readonly what: string;
  /** `true`: the daemon cannot do its job; otherwise it goes on with what it has. */
  readonly fatal: boolean;
}

export interface ApiParts {
  readonly generation: () => Generation;
  /** Reads all profiles again; faults keep the old generation. */
  readonly reload: (who: string) => Promise<Swap>;
  /** What a reload would do with these profiles instead, or with those that stand there now; changes nothing. */
  readonly plan: (files?: readonly ProfileFile[]) => Promise<PlanAnswer>;
  readonly reasons: () => readonly Reason[];
  readonly nodes: NodeStore;
  readonly boots: BootStore;
  readonly events: EventStore;
  /** So many failures in a row hold a node; 0: none do. */
  readonly holdAfter: number;
  /** Milliseconds since 1970. */
  readonly now: () => number;
  readonly artifacts: ArtifactStore;
  readonly leases: LeaseAdmin;
  readonly dhcp: DhcpAdmin;
  readonly discovered: Discovered;
  /** What is handed out now. */
  readonly loaders: () => LoaderSets;
  readonly metrics: Metrics;
  /** Of the nodes that somebody may log in to. */
  readonly hostKeys: HostKeys;
  readonly drift: DriftView;
}

export async function apiRoutes(app: FastifyInstance, parts: ApiParts): Promise<void> {
  const { nodes, boots, artifacts } = parts;

  const nodeView = async (node: Node) => {
    const generation = parts.generation();
    const [latest] = await boots.list({ node: node.name, limit: 1 });
    const history = await boots.history(node.name);
    const { running, lastGood, failedInRow, lastFailure, heldAt } = history;
    const assigned = generation.profiles[node.profile]?.bootSet;
    const held = isHeld(history, assigned, parts.holdAfter);
    const quirks = quirksOfNode(node, await nodes.seen(node.name), generation, latest);
    const next = nextOf(node, history);
    // It has no boots: what fits is sent whenever it asks.
    const goesToDisk = assigned === undefined || next === 'local';
    const had = latest?.quirks?.map(quirkWords) ?? [];
    return {
      name: node.name,
      profile: node.profile,
      macs: node.macs,
      ip: node.ip,
      labels: node.labels,
      source: node.source,
      loader: node.loader ?? 'auto',
      loaders: node.loaders ?? parts.loaders().default,
      lastLoader: latest && loaderOf(latest),
      assigned,
      running,
      lastGood,
      drift: await parts.drift.of(node, history, latest?.state),
      updatePending: running !== undefined && assigned !== running,
      exit: node.exit ?? sentBy(quirks)?.exit ?? 'exit',
      // What its next boot gets, and whether it is sent already.
      quirks: quirks.map((quirk) => ({ ...quirk, inForce: goesToDisk || had.includes(quirkWords(quirk)) })),
      next,
      failedInRow,
      lastFailure,
      held,
      // Of another boot set it is held no more; it is again, since then, if the one that failed comes back before anything was booted.
      heldAt: held ? heldAt : undefined,
      boot: latest && summary(latest),
      ssh: sshView(node, assigned === undefined ? undefined : generation.bootSets[assigned], latest),
    };
  };

  /** What its sshd will show who it is; undefined where nobody may log in, so that there is none. */
  const sshView = (node: Node, bootSet: BootSet | undefined, latest: Boot | undefined) => {
    const keys = sshKeysOf(bootSet ?? {}, node).length;
    if (keys === 0 || bootSet === undefined) return undefined;
    const { fingerprint, publicKey } = parts.hostKeys.of(node.name);
    const ip = latest?.ip ?? node.ip;
    return { keys, fingerprint, knownHosts: `${[node.name, ...(ip === undefined ? [] : [ip])].join(',')} ${publicKey}` };
  };

  const say = async (node: Node, next: Next | undefined) => {
    await boots.say(node.name, next);
    await parts.events.add({ at: parts.now(), kind: NODE_NEXT, node: node.name, detail: { next: next ?? 'as its YAML says' } });
    return nodeView(node);
  };

  app.get('/metrics', async (_request, reply) => reply.type(parts.metrics.contentType).send(await parts.metrics.render()));
  app.get('/livez', async () => ({ live: true }));
  app.get('/readyz', async (_request, reply) => {
    const reasons = parts.reasons();
    const ready = !reasons.some((reason) => reason.fatal);
    return reply.code(ready ? 200 : 503).send({ ready, reasons });
  });

  app.get('/api/nodes', async () => ({ nodes: await Promise.all(Object.values(parts.generation().nodes).map(nodeView)) }));

  app.get<{ Params: { node: string } }>('/api/nodes/:node', async (request) => {
    const node = findNode(parts.generation(), request.params.node);
    return { ...(await nodeView(node)), seen: await nodes.seen(node.name), history: await nodes.history(node.name) };
  });

  app.put<{ Params: { node: string } }>('/api/nodes/:node/profile', async (request) => {
    const node = findNode(parts.generation(), request.params.node);
    throw new AppError('NODE_IN_YAML', `${node.name} stands in YAML (profile ${node.profile}), which is its source`, `move its lines to boot-profiles/<profile>.yaml; the daemon reads the change by itself`);
  });

  app.post<{ Params: { node: string }; Body: unknown }>('/api/nodes/:node/next', async (request) => {
    const node = findNode(parts.generation(), request.params.node);
    const said = (request.body as { next?: unknown } | undefined)?.next;
    const next = NEXTS.find((one) => one === said);
    if (!next) throw new AppError('REQUEST_INVALID', `next: must be one of ${NEXTS.join(', ')}`);
    return say(node, next);
  });

  app.delete<{ Params: { node: string } }>('/api/nodes/:node/next', async (request) => say(findNode(parts.generation(), request.params.node), undefined));

  app.post<{ Params: { node: string } }>('/api/nodes/:node/release', async (request) => {
    const node = findNode(parts.generation(), request.params.node);
    const history = await boots.history(node.name);
    const { failedInRow } = history;
    if (!isHeld(history, parts.generation().profiles[node.profile]?.bootSet, parts.holdAfter)) throw new AppError('NODE_NOT_HELD', `${node.name} is not held`, 'rackseed node list shows which are');
    await boots.release(node.name);
    await parts.events.add({ at: parts.now(), kind: NODE_RELEASED, node: node.name, detail: { failedInRow } });
    return nodeView(node);
  });

  app.get<{ Querystring: { node?: string; limit?: string } }>('/api/boots', async (request) => {
    const { node, limit } = request.query;
    const most = Math.min(Math.max(Number(limit ?? 20) || 20, 1), 200);
    const name = node === undefined ? undefined : findNode(parts.generation(), node).name;
    const found = await boots.list({ ...(name ? { node: name } : {}), limit: most });
    return { boots: found.map(shown) };
  });

  app.get<{ Params: { id: string } }>('/api/boots/:id', async (request) => {
    const boot = await boots.withTails(request.params.id);
    if (!boot) throw new AppError('BOOT_UNKNOWN', `no boot ${request.params.id.slice(0, 40)}`, 'list them: GET /api/boots?node=<name>');
    return { ...shown(boot), bootSetContent: boot.bootSet ? await boots.bootSet(boot.bootSet) : undefined };
  });

  app.get<{ Querystring: { node?: string; limit?: string } }>('/api/history', async (request) => {
    const { node, limit } = request.query;
    const most = Math.min(Math.max(Number(limit ?? 50) || 50, 1), 500);
    if (node === undefined) return siteHistory(parts, most);
    // Also of one that no profile names any more.
    const gone = !parts.generation().nodes[node] && (await nodes.history(node)).length > 0;
    return nodeHistory(gone ? node : findNode(parts.generation(), node).name, parts, most);
  });

  app.get('/api/discovered', async () => {
    const { nodeByMac } = parts.generation();
    // Whom a profile names since is none any more.
    return { machines: parts.discovered.list().filter(({ mac }) => nodeByMac[mac] === undefined) };
  });

  leaseRoutes(app, parts.leases);
  dhcpRoutes(app, parts.dhcp);
  app.get('/api/loaders', async () => {
    const { default: defaultSet, sets, troubles } = parts.loaders();
    return { default: defaultSet, sets: sets.map(({ name, dir, addedAt, files }) => ({ name, dir, addedAt, files })), troubles };
  });
  app.get('/api/artifacts', async () => ({ artifacts: await artifacts.list() }));
  app.get('/api/generation', async () => {
    const generation = parts.generation();
    return { id: generation.id, profiles: Object.keys(generation.profiles).length, nodes: Object.keys(generation.nodes).length };
  });
  app.post('/api/reload', async () => parts.reload('api'));
  app.get('/api/plan', async () => parts.plan());
  app.post('/api/plan', { bodyLimit: PLAN_BODY_LIMIT }, async (request) => parts.plan(readFiles(request.body)));
}

/** Profiles of thousands of nodes are a few MiB. */
const PLAN_BODY_LIMIT = 32 << 20;

/** `{ files: [{ file, text }] }`: a directory of profiles that is not the daemon's own. */
function readFiles(body: unknown): ProfileFile[] {
  const files = (body as { files?: unknown } | undefined)?.files;
  const isFile = (one: unknown): one is ProfileFile => typeof (one as ProfileFile | null)?.file === 'string' && typeof (one as ProfileFile).text === 'string' && isProfileName(basename((one as ProfileFile).file));
  if (Array.isArray(files) && files.every(isFile)) return files.map(({ file, text }) => ({ file, text }));
  throw new AppError('REQUEST_INVALID', 'files: must be a list of { file, text }, each file named *.yaml or *.yml');
}

/** By name or by any of its MACs. NODE_UNKNOWN with the nearest name. */
function findNode(generation: Generation, text: string): Node {
  const mac = parseMac(text);
  const name = Object.hasOwn(generation.nodes, text) ? text : mac && generation.nodeByMac[mac];
  const node = name === undefined ? undefined : generation.nodes[name];
  if (node) return node;
  const near = nearest(text, Object.keys(generation.nodes));
  throw new AppError('NODE_UNKNOWN', `no node ${text.slice(0, 80)}`, near ? `did you mean ${near}?` : 'nodes are listed in the profiles of boot-profiles/');
}

/** A boot as people see it: everything but what opens its session. */
function shown({ tokenHash: _secret, ...boot }: Boot) {
  return boot;
}

function summary({ id, state, why, startedAt, endedAt, stages }: Boot) {
  return { id, state, why, startedAt, endedAt, stage: stages.at(-1)?.name };
}

/** What firmware was handed out in this boot, as far as it was seen. */
function loaderOf(boot: Boot) {
  const seen = stageOf(boot, 'loader')?.detail;
  return seen && { file: seen.message, digest: seen.digest, version: seen.version };
}
