// The Booter: looks the machine up, asks decide(), and writes down each stage that was seen. All that the servers know.
import { randomBytes } from 'node:crypto';
import { monotonicFactory } from 'ulid';
import type { Ip4, Mac } from './addr.ts';
import { createBootEnds } from './boot-ends.ts';
import { createBootQuirks } from './boot-quirks.ts';
import { createAdmission, needsSlot, placeWords, type Admission, type StreamEnd } from './boot/admission.ts';
import { correlate } from './boot/correlate.ts';
import { decide, type BootDecision, type View } from './boot/decide.ts';
import { isHeld } from './boot/hold.ts';
import { nextOf } from './boot/next.ts';
import type { ChosenSet } from './boot/loader-set.ts';
import { nodeWithCard, reservedFor } from './boot/directory.ts';
import { bareNode, type Node } from './boot/node.ts';
import type { BootSet, Generation } from './boot/profile.ts';
import type { Quirked } from './boot/quirks.ts';
import { machineOf, sameMachine, type BootRequest, type Serve } from './boot/request.ts';
import { opensSession, refuseClaim, tokenHash, type Claim, type Report } from './boot/session.ts';
import { stageOf, type Boot, type StageDetail, type StageName } from './boot/timeline.ts';
import type { Discovered } from './discovered.ts';
import { AppError } from './errors.ts';
import type { Log } from './log.ts';
import type { BootStore } from './store/boots.ts';
import type { EventStore } from './store/events.ts';
import type { LeaseStore } from './store/leases.ts';
import type { NodeStore } from './store/nodes.ts';

export interface Answer extends Quirked {
  readonly decision: BootDecision;
  readonly node?: Node;
  /** The boot that the request belongs to; absent when there is none to speak of. */
  readonly boot?: Boot;
  /** With a `boot` decision: the content that it names. */
  readonly bootSet?: BootSet;
  /** The image slot of a request with `wants: 'image'`; who has it gives it back with `release`. Absent where none is needed. */
  readonly ticket?: string;
}

/** What came of an enrolment; a refusal is a value with its reason. */
export type Enrolment =
  | { readonly kind: 'enrolled'; readonly boot: Boot; readonly token: string }
  | { readonly kind: 'refused' | 'replayed'; readonly why: string };

/** What a session reads: its boot, the boot set that this boot reads, and the node as the current generation has it. */
export interface Session {
  readonly boot: Boot;
  readonly bootSet: BootSet;
  readonly node: Node;
}

export interface Booter {
  /** Every protocol's one question. A DISCOVER may start a boot and a script fixes its boot set; nothing else changes anything. */
  ask(request: BootRequest): Promise<Answer>;
  /** A stage was seen just now. Unknown and ended boots are left as they are. Never throws: a boot must not die of its record. */
  seen(bootId: string, stage: StageName, detail?: StageDetail): Promise<void>;
  /** The boot's machine was given this address on this card: later requests from there belong to this boot. */
  leased(bootId: string, ip: Ip4, mac: Mac): Promise<void>;
  /** Opens the session of a boot, once. */
  enrol(claim: Claim): Promise<Enrolment>;
  /** The session that the token opens; undefined for any wrong, old or missing token. */
  session(bootId: string, token: string): Promise<Session | undefined>;
  /**
   * The stream that the ticket was for has ended; whoever got a ticket must say so, or its slot is taken for ever.
   * Unknown tickets and those given back already change nothing.
   */
  release(ticket: string, how: StreamEnd): Promise<void>;
  /** A node's own report on its boot, from within its session. Answers why it is not taken, if it is not. */
  report(session: Session, report: Report): Promise<string | undefined>;
}

export interface BooterParts {
  /** The current generation; read at each question, so that a swap takes effect whole. */
  readonly generation: () => Generation;
  readonly nodes: NodeStore;
  readonly leases: LeaseStore;
  readonly boots: BootStore;
  readonly events: EventStore;
  /** Where PXE machines are noted that no profile names. */
  readonly discovered?: Discovered;
  /** Who may fetch an image now; default: `DEFAULT_MAX_STREAMS` at once. */
  readonly admission?: Admission;
  /** The loader set of that name, or the one of machines for which none is named; default: what Debian 12 has. */
  readonly loaders?: (set: string | undefined) => ChosenSet;
  /** Whom the subnet of this address serves; default: nodes only. */
  readonly serveAt?: (ip: Ip4) => Serve | undefined;
  /** So many failures in a row hold a node; 0: none do. */
  readonly holdAfter?: number;
  readonly log: Log;
  /** Milliseconds since 1970. */
  readonly now: () => number;
  /** Milliseconds of a clock that nobody sets; default `now`. */
  readonly steady?: () => number;
}

export function createBooter(parts: BooterParts): Booter {
  const { boots, leases, nodes, events, log, now, steady = now, admission = createAdmission() } = parts;
  const newId = monotonicFactory();
  const ends = createBootEnds({ boots, events, log, now });
  const quirks = createBootQuirks({ nodes, log, now });
  const fixed = (node?: Node) => ({ ...parts.loaders?.(node?.loaders), ...(parts.holdAfter === undefined ? {} : { holdAfter: parts.holdAfter }) });
  /** Boots being started, by node: retransmitted DISCOVERs that arrive together are one attempt. */
  const starting = new Map<string, Promise<Boot>>();

  /** The boot that the request itself names, if the machine that asks can be that boot's. */
  async function namedBoot(request: BootRequest): Promise<Boot | undefined> {
    const boot = request.bootId ? await boots.get(request.bootId) : undefined;
    return boot && boot.ip === request.ip ? boot : undefined;
  }

  async function nodeNameOf(request: BootRequest, generation: Generation): Promise<string | undefined> {
    if (!request.ip) return undefined;
    const lease = await leases.at(request.ip);
    const mac = lease && lease.expiresAt > now() ? lease.mac : undefined;
    return (mac && nodeWithCard(generation, mac)?.name) ?? reservedFor(generation, request.ip);
  }

  async function bootOf(node: Node, request: BootRequest, generation: Generation): Promise<Boot | undefined> {
    const pending = starting.get(node.name);
    if (pending) return pending;
    const open = await boots.open(node.name);
    const verdict = correlate(open, request, now());
    if (verdict !== 'start') return verdict === 'continue' ? open : undefined;
    const applied = await quirks.starts(node, request, generation);
    // A machine that goes to its own disk boots nothing of ours; what it was booting before is over.
    if (generation.profiles[node.profile]?.bootSet === undefined || nextOf(node, await boots.history(node.name)) === 'local') {
      if (open) await boots.end(open.id, 'unfinished', now(), 'the machine started over, to boot from its own disk').catch((error: unknown) => unwritten(error, node.name));
      return undefined;
    }
    const racing = starting.get(node.name);
    if (racing) return racing;
    const [at, mac] = [now(), request.mac ?? node.macs[0]!];
    const started: Promise<Boot> = boots.start({ id: newId(at), node: node.name, mac, profile: node.profile, generation: generation.id, quirks: applied, startedAt: at });
    starting.set(node.name, started);
    try {
      const boot = await started;
      log.info({ node: node.name, mac, boot: boot.id, profile: node.profile, ...(applied.length > 0 ? { quirks: applied.map(({ name }) => name) } : {}) }, 'boot started');
      if (open) log.warn({ node: node.name, boot: open.id, last: open.stages.at(-1)?.name }, 'boot ended by a new one');
      return boot;
    } catch (error) {
      return unwritten(error, node.name);
    } finally {
      starting.delete(node.name);
    }
  }

  /** A node gets its address on a full disk, too; what it boots must be written down, so its script waits until there is room. */
  function unwritten(error: unknown, node: string): undefined {
    if (!(error instanceof AppError)) throw error;
    log.error({ node, err: error }, 'boot not recorded');
  }

  /** Written when it differs from what was known: retransmitted DISCOVERs cost nothing. */
  async function learnMachine(boot: Boot, request: BootRequest): Promise<void> {
    if (request.via !== 'dhcp' || (request.asker !== 'rom' && request.asker !== 'ipxe')) return;
    const machine = machineOf(request);
    if (!sameMachine(machine, boot.machine ?? {})) await boots.setMachine(boot.id, machine).catch((error: unknown) => unwritten(error, boot.node));
  }

  /** A machine that no profile names: noted, and told whom its subnet serves. */
  function asStranger(request: BootRequest): BootRequest {
    if (request.message === 'discover' && (request.asker === 'rom' || request.asker === 'ipxe')) parts.discovered?.see(request, now());
    const serve = request.serve ?? (request.ip === undefined ? undefined : parts.serveAt?.(request.ip));
    return serve === undefined || serve === request.serve ? request : { ...request, serve };
  }

  async function contentOf(digest: string, generation: Generation): Promise<BootSet | undefined> {
    return generation.bootSets[digest] ?? (await boots.bootSet(digest));
  }

  /** Adds the slot that an image needs, or the place in the queue: who is refused anyway takes neither. */
  async function admit(answer: Answer, view: View, request: BootRequest, generation: Generation): Promise<Answer> {
    const { node, boot } = answer;
    if (request.wants !== 'image' || answer.decision.kind === 'silent' || (node === undefined && request.ip === undefined)) return answer;
    const own = answer.bootSet ?? (boot?.bootSet === undefined ? undefined : await contentOf(boot.bootSet, generation));
    if (!needsSlot(request.blob, [...(own ? [own] : []), ...Object.values(generation.bootSets)])) return answer;
    const verdict = admission.ask(node ? { key: `node ${node.name}`, rank: 'node' } : { key: `ip ${request.ip}`, rank: 'stranger' }, steady());
    const about = { ...(node ? { node: node.name } : {}), ...(request.ip === undefined ? {} : { ip: request.ip }), ...(boot ? { boot: boot.id } : {}) };
    const ofBoot = boot?.state === 'open' && stageOf(boot, 'root')?.state !== 'ok' && own !== undefined && own.image.squashfs.digest === request.blob ? boot : undefined;
    if (verdict.kind === 'admitted') {
      if (verdict.waitedMs !== undefined) {
        const seconds = Math.round(verdict.waitedMs / 1000);
        log.info({ ...about, seconds }, 'got an image slot');
        await rootIs(ofBoot, `got an image slot after ${seconds} s`);
      }
      return { ...answer, ticket: verdict.ticket };
    }
    if (verdict.tell) {
      log.info({ ...about, place: verdict.place, etaS: verdict.etaS }, 'waiting for an image slot');
      await rootIs(ofBoot, `waiting for an image slot, ${placeWords(verdict)}`);
    }
    return { ...answer, decision: decide({ ...view, waiting: verdict }, request, generation) };
  }

  /** What people see of a boot whose image is waited for. Never throws, as `seen`: a ticket would be lost by it. */
  async function rootIs(boot: Boot | undefined, message: string): Promise<void> {
    if (!boot) return;
    await boots.see(boot.id, { name: 'root', state: 'running', at: now(), detail: { message } }).catch((error: unknown) => log.error({ boot: boot.id, err: error }, 'stage not recorded'));
  }

  return {
    async ask(request) {
      const generation = parts.generation();
      // A DHCP packet names no boot, and its MAC: thousands a second of them wait for nothing here. Others, such as a Git client, show nothing but their address.
      const named = (request.bootId === undefined ? undefined : await namedBoot(request)) ?? (request.mac === undefined && request.ip !== undefined ? await boots.openAt(request.ip) : undefined);
      const name = named?.node ?? (request.mac === undefined ? await nodeNameOf(request, generation) : nodeWithCard(generation, request.mac)?.name);
      const node = name === undefined ? undefined : (generation.nodes[name] ?? (named?.bootSet ? bareNode(named) : undefined));
      if (!node) {
        const sent = await quirks.of(undefined, undefined, request, generation);
        const [view, asked]: [View, BootRequest] = [{ failedInRow: 0, ...fixed(), ...sent }, asStranger(request)];
        return admit({ decision: decide(view, asked, generation), ...sent }, view, asked, generation);
      }

      let boot = named ?? (await bootOf(node, request, generation));
      // Only the machine itself may have its script: it fixes the boot set and is a stage. Its address is known since the ACK.
      if (request.wants === 'script' && boot && (request.ip === undefined || boot.ip !== request.ip)) {
        return { decision: { kind: 'silent', why: `${request.ip ?? 'this'} is not the address of ${node.name}'s boot` }, node };
      }
      if (boot) await learnMachine(boot, request);
      const about = { node, ...(await quirks.of(boot, node, request, generation)) };
      const history = await boots.history(node.name);
      const assigned = generation.profiles[node.profile]?.bootSet;
      // A script request says nothing of the machine: what its DHCP packets said holds for it.
      const asked: BootRequest = request.wants === 'script' ? { ...boot?.machine, ...request } : request;
      const view: View = { ...about, ...fixed(node), ...history, ...(boot ? { openBoot: boot } : {}), ...(assigned ? { assigned } : {}) };
      const decision = decide(view, asked, generation);
      // A ROM is given the loader that says so: firmware that refuses it asks for no script, and the hold is one all the same.
      const isTold = decision.kind === 'hold' || (decision.kind === 'loader' && boot?.bootSet === undefined);
      if (isTold && history.heldAt === undefined && isHeld(history, assigned, parts.holdAfter)) await ends.held(node.name, history);
      if (decision.kind !== 'boot') return admit({ decision, ...about, ...(boot ? { boot } : {}) }, view, asked, generation);

      const bootSet = await contentOf(decision.bootSet, generation);
      if (request.wants === 'script' && boot && bootSet) {
        // Also of a boot that has one: that may be written, and not yet durable.
        boot = await boots.fixBootSet(boot.id, decision.bootSet, bootSet, { profile: node.profile, generation: generation.id });
        // Two scripts asked at once, a swap between them: the first one fixed it, both are answered from that.
        const fixed = boot.bootSet ?? decision.bootSet;
        const content = await contentOf(fixed, generation);
        return { decision: { kind: 'boot', bootSet: fixed }, ...about, boot, ...(content ? { bootSet: content } : {}) };
      }
      return admit({ decision, ...about, ...(boot ? { boot } : {}), ...(bootSet ? { bootSet } : {}) }, view, asked, generation);
    },

    async seen(bootId, stage, detail) {
      try {
        const boot = await boots.get(bootId);
        if (!boot || boot.state !== 'open') return;
        await boots.see(bootId, { name: stage, state: 'ok', at: now(), ...(detail ? { detail } : {}) });
        log.info({ node: boot.node, mac: boot.mac, boot: bootId, stage, ...(detail ?? {}) }, 'stage');
      } catch (error) {
        log.error({ boot: bootId, stage, err: error }, 'stage not recorded');
      }
    },

    async leased(bootId, ip, mac) {
      try {
        await boots.setAddress(bootId, ip, mac);
      } catch (error) {
        log.error({ boot: bootId, ip, err: error }, 'address of boot not recorded');
      }
    },

    async enrol(claim) {
      const boot = await boots.openAt(claim.ip);
      const why = refuseClaim(boot, boot ? (parts.generation().nodes[boot.node]?.macs ?? []) : [], claim, now());
      if (!boot || why !== undefined) {
        log.warn({ ip: claim.ip, mac: claim.mac, boot: claim.bootId, why }, 'enrolment refused');
        return { kind: 'refused', why: why ?? 'no boot of this machine is open' };
      }
      const token = randomBytes(32).toString('hex');
      if (!(await boots.enrol(boot.id, tokenHash(token), now()))) {
        await events.add({ at: now(), kind: 'enrolment-replayed', node: boot.node, boot: boot.id, detail: { ip: claim.ip } });
        log.warn({ ip: claim.ip, node: boot.node, boot: boot.id }, 'enrolment replayed');
        return { kind: 'replayed', why: `boot ${boot.id} has its session already` };
      }
      quirks.learn(boot.node, claim.smbios ?? {});
      return { kind: 'enrolled', boot, token };
    },

    async session(bootId, token) {
      const boot = await boots.get(bootId);
      if (!boot?.bootSet || !opensSession(boot, token)) return undefined;
      // A session lives as long as its boot is the node's newest, which an open one is: a machine that started over has another.
      const [newest] = boot.state === 'open' ? [boot] : await boots.list({ node: boot.node, limit: 1 });
      if (newest?.id !== boot.id) return undefined;
      const generation = parts.generation();
      const bootSet = await contentOf(boot.bootSet, generation);
      if (!bootSet) return undefined;
      const node = generation.nodes[boot.node] ?? bareNode(boot);
      return { boot, bootSet, node };
    },

    release: async (ticket, how) => admission.release(ticket, how, steady()),

    report: ({ boot }, report) => ends.report(boot, parts.generation().nodes[boot.node], report),
  };
}
