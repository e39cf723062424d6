// Fetching what an answer names: the loader by TFTP with the npm package's client, the script or loader by HTTP; measured, hashed, never stored.
import { createHash } from 'node:crypto';
import { request as httpRequest, type IncomingMessage } from 'node:http';
import { createClient } from 'tftp';
import { parseIp4, type Ip4 } from '../addr.ts';
import { peArch } from '../boot/loader.ts';
import type { Arch } from '../boot/request.ts';
import type { Digest } from '../digest.ts';
import { lineOf } from '../errors.ts';
import { shown, type Target } from './answers.ts';
import { isOnLink, type Card } from './card.ts';
import { filesOf, firstLines, isScript, refusalIn } from './script.ts';

/** By its first bytes; `efi` is a UEFI program for a processor that we have no name for, `program` anything else, such as a BIOS loader. */
export type FileKind = 'script' | `efi-${Arch}` | 'efi' | 'program';

export interface Checked {
  readonly command: string;
  readonly url?: string;
  /** Of a HEAD request. */
  readonly status?: number;
  readonly size?: number;
  readonly ok: boolean;
  readonly why?: string;
}

export interface Fetched {
  /** `tftp://10.77.0.1/undionly.kpxe` or the URL. */
  readonly from: string;
  readonly ok: boolean;
  /** Why not. */
  readonly why?: string;
  /** The server itself said no, by a TFTP ERROR or an HTTP status. */
  readonly refused?: boolean;
  readonly bytes?: number;
  readonly digest?: Digest;
  readonly ms?: number;
  readonly kind?: FileKind;
  /** Of an iPXE script: its first lines, and the files that it names. */
  readonly script?: readonly string[];
  readonly files?: readonly Checked[];
}

/** A stranger may send without end: more than any loader, kernel or UKI has. */
const MOST_BYTES = 512 << 20;
/** Enough for a script, and for the header of a program. */
const KEPT_BYTES = 64 << 10;
const FETCH_MS = 60_000;
const HEAD_MS = 5_000;

/** `source` is the address to fetch from. Never throws: what went wrong is in the value. */
export async function fetchTarget(target: Exclude<Target, { via: 'none' }>, card: Card, source: Ip4): Promise<Fetched> {
  const from = target.via === 'tftp' ? `tftp://${target.server}/${shown(target.file)}` : shown(target.url);
  const server = target.via === 'tftp' ? target.server : hostOf(target.url);
  if (!server) return { from, ok: false, why: 'its URL names a host, and the probe asks no name server: only addresses of this link' };
  if (!isOnLink(card, server)) return { from, ok: false, why: `${server} is not on the link of ${card.name}, and the probe sends nothing elsewhere` };
  const body = bodyOf();
  const startedAt = performance.now();
  try {
    await (target.via === 'tftp' ? getByTftp(target.server, target.file, body) : getByHttp(target.url, source, body));
  } catch (error) {
    return { from, ok: false, why: shown(lineOf(error)), ...(error instanceof Refused ? { refused: true } : {}) };
  }
  const ms = Math.round(performance.now() - startedAt);
  const head = body.head();
  const fetched: Fetched = { from, ok: true, bytes: body.size(), digest: body.digest(), ms, kind: kindOf(head) };
  if (fetched.kind !== 'script') return fetched;
  const script = Buffer.from(head).toString('utf8');
  const refusal = refusalIn(script);
  if (refusal) return { ...fetched, ok: false, refused: true, why: refusal, script: firstLines(script) };
  const files: Checked[] = [];
  // One after the other: the answer is the same, and a server is not hurried.
  for (const { command, url, why } of filesOf(script, target.via === 'http' ? target.url : undefined)) {
    files.push(url ? await checkFile(command, url, card, source) : { command, ok: true, ...(why ? { why } : {}) });
  }
  return { ...fetched, script: firstLines(script), files };
}

class Refused extends Error {}

/** What was received, without keeping it. */
function bodyOf() {
  const hash = createHash('sha256');
  const kept: Uint8Array[] = [];
  let size = 0;
  let keptSize = 0;
  return {
    /** false when it is too much. */
    take(chunk: Uint8Array): boolean {
      size += chunk.length;
      if (size > MOST_BYTES) return false;
      hash.update(chunk);
      if (keptSize < KEPT_BYTES) {
        kept.push(chunk.slice(0, KEPT_BYTES - keptSize));
        keptSize += kept.at(-1)!.length;
      }
      return true;
    },
    size: () => size,
    head: () => Buffer.concat(kept),
    digest: (): Digest => `sha256:${hash.digest('hex')}`,
  };
}

type Body = ReturnType<typeof bodyOf>;

/** Asks with blksize 1468, tsize and windowsize 1, as a ROM does. */
function getByTftp(host: Ip4, file: string, body: Body): Promise<void> {
  return new Promise((resolve, reject) => {
    // It sends `timeout` as TFTP's option too, which counts seconds up to 255 (RFC 2349): what no server can take, none will wait by.
    const client = createClient({ host, retries: 4, timeout: 1_000, windowSize: 1 });
    // Without its own map of further options it fails on a server that answers with one that was not asked for.
    const stream = client.createGetStream(file, { userExtensions: {} });
    const timer = setTimeout(() => giveUp(`not complete after ${FETCH_MS / 1000} s`), FETCH_MS);
    const fail = (error: Error): void => {
      clearTimeout(timer);
      reject(error);
    };
    const giveUp = (why: string): void => {
      fail(new Error(why));
      stream.abort('given up');
    };
    stream.on('data', (chunk) => void (body.take(chunk) || giveUp(`more than ${MOST_BYTES >> 20} MiB`)));
    stream.on('error', ({ message }) => {
      // Its own mark for what the server sent as an ERROR, or sent wrong.
      if (message.startsWith('(Server) ')) fail(new Refused(`the server says: ${message.slice(9)}`));
      else fail(new Error(message === 'Timed out' ? 'the server does not answer (is TFTP running there, and UDP open in both directions?)' : message));
    });
    stream.on('end', () => {
      clearTimeout(timer);
      resolve();
    });
  });
}

async function getByHttp(url: string, source: Ip4, body: Body): Promise<void> {
  const response = await ask('GET', url, source, FETCH_MS);
  const { statusCode = 0, headers } = response;
  if (statusCode >= 300 && statusCode < 400) {
    response.destroy();
    throw new Refused(`HTTP ${statusCode} to ${shown(headers.location ?? 'nowhere', 120)}, and the probe follows no redirects`);
  }
  for await (const chunk of response) if (!body.take(chunk as Buffer)) throw new Error(`more than ${MOST_BYTES >> 20} MiB`);
  if (statusCode !== 200) throw new Refused(`HTTP ${statusCode}: ${body.head().toString('utf8').split('\n')[0]!.slice(0, 160)}`);
}

async function checkFile(command: string, url: string, card: Card, source: Ip4): Promise<Checked> {
  const host = hostOf(url);
  if (!host || !isOnLink(card, host)) return { command, url: shown(url), ok: true, why: 'not on this link: not asked' };
  try {
    const response = await ask('HEAD', url, source, HEAD_MS);
    response.destroy();
    const size = Number(response.headers['content-length']);
    return { command, url: shown(url), status: response.statusCode ?? 0, ok: response.statusCode === 200, ...(Number.isSafeInteger(size) ? { size } : {}) };
  } catch (error) {
    return { command, url: shown(url), ok: false, why: shown(lineOf(error)) };
  }
}

function ask(method: 'GET' | 'HEAD', url: string, source: Ip4, timeoutMs: number): Promise<IncomingMessage> {
  return new Promise((resolve, reject) => {
    const request = httpRequest(url, { method, localAddress: source, agent: false, signal: AbortSignal.timeout(timeoutMs), headers: { 'user-agent': 'rackseed-probe' } }, resolve);
    request.on('error', (error) => reject(error.name === 'AbortError' || error.name === 'TimeoutError' ? new Error(`no answer within ${timeoutMs / 1000} s`) : error));
    request.end();
  });
}

function hostOf(url: string): Ip4 | undefined {
  try {
    return parseIp4(new URL(url).hostname);
  } catch {
    return undefined;
  }
}

export function kindOf(head: Uint8Array): FileKind {
  if (isScript(head)) return 'script';
  const arch = peArch(head);
  if (arch === undefined) return 'program';
  return arch === 'unknown' ? 'efi' : `efi-${arch}`;
}
