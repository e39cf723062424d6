// The routes that machines call on their way up: script, enrolment, config, facts, reports. Text only, never JSON errors, never a stack.
import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify';
import { parseMac } from '../addr.ts';
import { GRUB_ROOT_CFG, grubFor, renderGrubTrouble } from '../boot/grub.ts';
import { renderTrouble, scriptFor } from '../boot/ipxe.ts';
import { isReportable, readSmbios, renderConfig, sshKeysOf, type Report } from '../boot/session.ts';
import type { Stage, StageDetail } from '../boot/timeline.ts';
import { ENROL_PATH, GRUB_CFG, GRUB_ROOT_CFG_FILE, GRUB_ROUTE, SCRIPT_ROUTE, sessionPath } from '../boot/urls.ts';
import type { Booter, Session } from '../booter.ts';
import type { Log } from '../log.ts';
import { factsAsEnvironment, factsOf } from '../postboot/facts.ts';
import type { HostKeys } from '../store/host-keys.ts';
import { baseUrlOf, remoteIp4 } from './peer.ts';
import { refuse, sendText } from './refusal.ts';

/** What a step's output may bring; more is cut at its start, since the end tells why. */
const TAIL_BYTES = 64 * 1024;
const REPORT_BODY_LIMIT = TAIL_BYTES + 1024;

export interface MachineParts {
  readonly booter: Booter;
  readonly log: Log;
  /** Of the nodes that somebody may log in to. */
  readonly hostKeys: HostKeys;
  readonly publicBase?: string;
  /** Other servers that have images under our paths. */
  readonly fallbacks?: readonly string[];
}

export async function machineRoutes(app: FastifyInstance, { booter, log, hostKeys, publicBase, fallbacks }: MachineParts): Promise<void> {
  // Bodies are plain text whatever a busybox wget calls them.
  app.removeAllContentTypeParsers();
  app.addContentTypeParser('*', { parseAs: 'buffer', bodyLimit: REPORT_BODY_LIMIT }, (_request, body, done) => done(null, body));

  app.get<{ Params: { mac: string } }>(SCRIPT_ROUTE, async (request, reply) => {
    const mac = parseMac(request.params.mac);
    if (!mac) return refuse(reply, 404, 'NODE_UNKNOWN', 'this is not a MAC address');
    const ip = remoteIp4(request);
    const asking = booter.ask({ via: 'http', mac, ...(ip ? { ip } : {}), asker: 'ipxe', wants: 'script' });
    const answer = await asking.catch((error: unknown) => void log.error({ err: error, mac, ip }, 'script not decided'));
    if (!answer) return sendText(reply, 200, renderTrouble({ mac, baseUrl: baseUrlOf(request) }));
    const { boot } = answer;
    if (boot && answer.decision.kind === 'boot' && request.method === 'GET') {
      reply.raw.once('finish', () => void booter.seen(boot.id, 'script'));
    }
    return sendText(reply, 200, scriptFor(answer, { mac, baseUrl: baseUrlOf(request), publicBase }));
  });

  // The same for all, and nothing is said of anybody.
  app.get(`/${GRUB_ROOT_CFG_FILE}`, (_request, reply) => sendText(reply, 200, GRUB_ROOT_CFG));

  app.get<{ Params: { mac: string } }>(GRUB_ROUTE, async (request, reply) => {
    const mac = parseMac(request.params.mac);
    if (!mac) return refuse(reply, 404, 'NODE_UNKNOWN', 'this is not a MAC address');
    const ip = remoteIp4(request);
    const to = { mac, baseUrl: baseUrlOf(request), via: 'http' } as const;
    const answer = await booter.ask({ via: 'http', mac, ...(ip ? { ip } : {}), wants: 'script' }).catch((error: unknown) => void log.error({ err: error, mac, ip }, 'script not decided'));
    if (!answer) return sendText(reply, 200, renderGrubTrouble());
    const { boot } = answer;
    if (boot && answer.decision.kind === 'boot' && request.method === 'GET') reply.raw.once('finish', () => void booter.seen(boot.id, 'script', { message: GRUB_CFG }));
    return sendText(reply, 200, grubFor(answer, to));
  });

  app.post(ENROL_PATH, async (request, reply) => {
    const ip = remoteIp4(request);
    if (!ip) return refuse(reply, 403, 'ENROL_REFUSED', 'only IPv4 machines enrol');
    const said = pairsOf(request.body);
    const mac = parseMac(said.get('mac') ?? '');
    const bootId = said.get('boot');
    const enrolment = await booter.enrol({ ip, ...(mac ? { mac } : {}), ...(bootId ? { bootId } : {}), smbios: readSmbios(said) });
    if (enrolment.kind === 'enrolled') return sendText(reply, 201, `boot ${enrolment.boot.id}\ntoken ${enrolment.token}\n`);
    return enrolment.kind === 'replayed' ? refuse(reply, 409, 'ENROLLED_ALREADY', enrolment.why) : refuse(reply, 403, 'ENROL_REFUSED', enrolment.why);
  });

  const inSession = async (request: FastifyRequest, reply: FastifyReply): Promise<Session | undefined> => {
    const { id } = request.params as { id: string };
    const token = /^Bearer ([0-9a-f]{64})$/.exec(request.headers.authorization ?? '')?.[1];
    const session = token ? await booter.session(id, token) : undefined;
    if (!session) refuse(reply, 401, 'SESSION_REFUSED', 'this token does not open a session of this boot');
    return session;
  };

  app.get(sessionPath(':id', 'config'), async (request, reply) => {
    const session = await inSession(request, reply);
    if (!session) return reply;
    if (request.method === 'GET') reply.raw.once('finish', () => void booter.seen(session.boot.id, 'config'));
    const { boot, bootSet, node } = session;
    // Without somebody who may log in there is no use for an sshd, and without a host key it does not start.
    const hostKey = sshKeysOf(bootSet, node).length > 0 ? { hostKey: hostKeys.of(node.name).file } : {};
    return sendText(reply, 200, renderConfig(boot, bootSet, node, { ...(publicBase === undefined ? {} : { publicBase }), ...(fallbacks ? { fallbacks } : {}), ...hostKey }));
  });

  app.get(sessionPath(':id', 'facts'), async (request, reply) => {
    const session = await inSession(request, reply);
    if (!session) return reply;
    return reply.type('application/json').send(`${JSON.stringify(factsOf(session.boot, session.bootSet, session.node, baseUrlOf(request)), null, 2)}\n`);
  });

  app.get(sessionPath(':id', 'facts.env'), async (request, reply) => {
    const session = await inSession(request, reply);
    if (!session) return reply;
    return sendText(reply, 200, factsAsEnvironment(factsOf(session.boot, session.bootSet, session.node, baseUrlOf(request))));
  });

  app.post(sessionPath(':id', 'report'), async (request, reply) => {
    const session = await inSession(request, reply);
    if (!session) return reply;
    const report = readReport(request.query as Record<string, unknown>, request.body);
    if (!report) return refuse(reply, 400, 'REPORT_INVALID', 'stage and state of a report must be ones that a node may report');
    const why = await booter.report(session, report);
    return why === undefined ? reply.code(204).send() : refuse(reply, 400, 'REPORT_INVALID', why);
  });
}

function readReport(query: Record<string, unknown>, body: unknown): Report | undefined {
  const one = (name: string): string | undefined => (typeof query[name] === 'string' ? query[name] : undefined);
  const stage = one('stage');
  const state = one('state');
  if (!stage || !isReportable(stage) || !isState(state)) return undefined;
  const count = (name: string): number | undefined => (/^\d{1,10}$/.test(one(name) ?? '') ? Number(one(name)) : undefined);
  const [exitCode, durationMs, result] = [count('exit'), count('ms'), one('result')];
  const message = one('message')?.replace(/[\x00-\x1f\x7f]+/g, ' ').trim().slice(0, 500);
  const tail = Buffer.isBuffer(body) && body.length > 0 ? body.subarray(-TAIL_BYTES).toString('utf8') : undefined;
  const detail: StageDetail = {
    ...(message ? { message } : {}),
    ...(exitCode !== undefined ? { exitCode } : {}),
    ...(durationMs !== undefined ? { durationMs } : {}),
    ...(result === 'changed' || result === 'unchanged' ? { result } : {}),
    ...(tail !== undefined ? { tail } : {}),
  };
  return { stage, state, detail };
}

function isState(state: string | undefined): state is Stage['state'] {
  return state === 'ok' || state === 'running' || state === 'failed';
}

/** `key value` lines; the value is the rest of the line. */
function pairsOf(body: unknown): Map<string, string> {
  const lines = Buffer.isBuffer(body) ? body.toString('utf8').split('\n') : [];
  return new Map(lines.flatMap((line) => (line.includes(' ') ? [[line.slice(0, line.indexOf(' ')), line.slice(line.indexOf(' ') + 1).trim()] as const] : [])));
}
