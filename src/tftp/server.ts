// The TFTP server: one listening socket per address; each read request asks the Booter and gets a transfer of its own.
import type { RemoteInfo, Socket } from 'node:dgram';
import type { Ip4, Ip6 } from '../addr.ts';
import type { Node } from '../boot/node.ts';
import { plainTftpName } from '../boot/urls.ts';
import type { Answer, Booter } from '../booter.ts';
import { createBudget } from '../budget.ts';
import type { Log } from '../log.ts';
import type { TftpFigures } from '../metrics.ts';
import { monotonicMs } from '../threads/clock.ts';
import type { Opened, TftpAsk, TftpFile, TftpFiles, TftpRefusal } from './files.ts';
import { decodeTftp, encodeTftp, TFTP_ERROR, TftpDecodeError, type TftpRequest } from './packet.ts';
import { createTransferPool, type RunningTransfer, type TransferPool } from './pool.ts';
import { whoYields } from './room.ts';
import type { TransferResult } from './runner.ts';
import type { PeerTerms, TftpListener, TftpSockets } from './sockets.ts';
import { GIVE_UP_BEFORE_FIRST_ACK_MS } from './transfer.ts';

export interface TftpServerParts {
  /** Closed by stop(). */
  readonly sockets: TftpSockets;
  readonly files: TftpFiles;
  readonly booter: Booter;
  readonly log: Log;
  /** What the path to this node at this address carries in one block, in bytes; default: as much as its subnet. */
  readonly blockSizeFor?: (node: Node, peer: Ip4 | Ip6) => number;
  /** Stopped by stop(). Default: one of its own. */
  readonly pool?: TransferPool;
  /** For tests; default LIMITS. */
  readonly limits?: Partial<TftpLimits>;
}

export interface TftpLimits {
  /** At once: all, those to one address, and those by IPv6, where one machine has as many addresses as it likes. */
  readonly transfers: number;
  readonly perIp: number;
  readonly ip6: number;
  /**
   * Of one address, in the 6 s after which a transfer without an ACK is over: requests that are answered and never acknowledged, whatever they ask for and
   * on whatever port; and ERRORs, which nobody acknowledges. More are met with silence: its address may be forged.
   */
  readonly unanswered: number;
  /** How long the Booter and the disk may take until a file is there to be sent, in milliseconds. */
  readonly openMs: number;
  /** A transfer younger than this is not called slow, in milliseconds. */
  readonly slowAfterMs: number;
}

export interface TftpServer {
  /** What came before is lost, and asked again. */
  start(): void;
  /** Ends running transfers with an ERROR 0 and closes the sockets. */
  stop(): Promise<void>;
  counters(): TftpFigures;
}

export const MOST_TRANSFERS = 1024;
export const MOST_TRANSFERS_PER_IP = 64;
/** A peer that asks anew on the same port after this long without an ACK has begun again: a reset machine, or its last ACK was lost. */
const BEGAN_AGAIN_MS = 1_000;
export const LIMITS: TftpLimits = { transfers: MOST_TRANSFERS, perIp: MOST_TRANSFERS_PER_IP, ip6: 256, unanswered: MOST_TRANSFERS_PER_IP, openMs: 20_000, slowAfterMs: 5_000 };
/** All slots are taken, and none could be freed: so long nobody looks again, or a flood would have every request read all of them. */
const LOOK_AGAIN_MS = 20;
/** Addresses whose forged requests are counted: whoever forges more of them sends each but a few packets. */
const ADDRESSES = 32_768;

interface Entry {
  /** The request as it came, to tell a duplicate from another request. */
  readonly datagram: Buffer;
  readonly ip6: boolean;
  /** Absent while the Booter and the file are being asked. */
  run?: RunningTransfer;
}

export function createTftpServer(parts: TftpServerParts): TftpServer {
  const { log } = parts;
  const { listeners } = parts.sockets;
  const limits = { ...LIMITS, ...parts.limits };
  const pool = parts.pool ?? createTransferPool({ log, most: limits.transfers });
  let stopped = false;
  const entries = new Map<string, Entry>();
  const perIp = new Map<Ip4 | Ip6, number>();
  let ip6Entries = 0;
  let lookedAt = -Infinity;
  const lately = { burst: limits.unanswered, perSecond: (limits.unanswered * 1000) / GIVE_UP_BEFORE_FIRST_ACK_MS, keys: ADDRESSES };
  /** Of each address: requests answered and not acknowledged (yet), and ERRORs. */
  const unheard = createBudget<Ip4 | Ip6>(lately);
  const errors = createBudget<Ip4 | Ip6>(lately);
  const counts = { requests: 0, complete: 0, aborted: 0, failed: 0, refused: 0, busy: 0, stopped: 0, duplicates: 0, malformed: 0, outside: 0, faults: 0, resent: 0, bytes: 0 };

  const refuse = (socket: Socket, peer: RemoteInfo, refusal: TftpRefusal) => {
    if (!errors.take(peer.address, monotonicMs())) return;
    socket.send(encodeTftp({ kind: 'error', code: refusal.code, message: refusal.message }), peer.port, peer.address, () => {});
  };

  const fault = (error: unknown) => {
    counts.faults++;
    log.error({ err: error }, 'tftp: a datagram met a fault');
  };

  function onDatagram({ socket, localFor, termsFor }: TftpListener, datagram: Buffer, peer: RemoteInfo): void {
    try {
      const terms = termsFor(peer.address);
      if (!terms) return void counts.outside++;
      if (peer.port === 0) return void counts.malformed++;
      const packet = decodeTftp(datagram);
      // Only requests are answered here: an ERROR for a stray packet could set two servers on each other.
      if (packet.kind !== 'rrq' && packet.kind !== 'wrq') return void counts.malformed++;
      onRequest(socket, localFor(peer.address), datagram, packet, peer, terms);
    } catch (error) {
      if (error instanceof TftpDecodeError) counts.malformed++;
      else fault(error);
    }
  }

  function onRequest(socket: Socket, local: Ip4, datagram: Buffer, request: TftpRequest, peer: RemoteInfo, terms: PeerTerms): void {
    const key = `${local} ${peer.address}:${peer.port}`;
    // A client that asks for its next file the moment it has one is here before the word that it has.
    const ip6 = peer.address.includes(':');
    if (entries.has(key) || isFull(ip6) || (perIp.get(peer.address) ?? 0) >= limits.perIp) pool.settle();
    const known = entries.get(key);
    if (known) {
      const same = known.datagram.equals(datagram);
      const begins = known.run && (known.run.heard() ? known.run.quietMs() >= BEGAN_AGAIN_MS : !same);
      if (!begins) {
        counts.duplicates++;
        known.run?.askedAgain();
        return;
      }
      known.run?.stop();
    }
    counts.requests++;
    const barred = refusalOf(request);
    if (barred) {
      counts.refused++;
      // Anybody can send these, under any address, as fast as the wire carries them.
      log.debug({ ip: peer.address, file: request.file.slice(0, 200), error: barred.message }, 'tftp: refused');
      return void refuse(socket, peer, barred);
    }
    const mine = perIp.get(peer.address) ?? 0;
    if (mine < limits.perIp && isFull(ip6)) makeRoom();
    if (mine >= limits.perIp || isFull(ip6)) {
      counts.busy++;
      const limit = mine >= limits.perIp ? `${mine} transfers run to this address` : `${entries.size} transfers are running`;
      return void refuse(socket, peer, { code: TFTP_ERROR.undefined, message: `server busy: ${limit}, ask again later` });
    }
    if (!mayOpen(peer.address)) {
      counts.busy++;
      // No ERROR: a client ends at one, and this may be one whose address somebody else forges. It asks again.
      log.debug({ ip: peer.address, file: request.file.slice(0, 200) }, 'tftp: too many requests of this address were not acknowledged');
      return;
    }
    const entry: Entry = { datagram, ip6 };
    entries.set(key, entry);
    perIp.set(peer.address, (perIp.get(peer.address) ?? 0) + 1);
    if (ip6) ip6Entries++;
    const release = () => {
      if (entries.get(key) === entry) entries.delete(key);
      if (ip6) ip6Entries--;
      const left = (perIp.get(peer.address) ?? 1) - 1;
      if (left > 0) perIp.set(peer.address, left);
      else perIp.delete(peer.address);
    };
    openInTime(request.file, { peer: peer.address, local, serve: terms.serve }).then(
      (opened) => {
        if ('refusal' in opened || stopped) {
          release();
          unheard.giveBack(peer.address);
          if (!('refusal' in opened)) {
            opened.file.release?.();
            return void counts.stopped++;
          }
          counts.refused++;
          log.debug({ ip: peer.address, file: request.file.slice(0, 200), error: opened.refusal.message }, 'tftp: refused');
          return void refuse(socket, peer, opened.refusal);
        }
        const { bytes, pieces, release: free } = opened.file;
        const { node, quirks } = opened.answer;
        const maxBlockSize = Math.min(terms.blockSize, (node && parts.blockSizeFor?.(node, peer.address)) ?? Infinity, quirks?.blksize ?? Infinity);
        const order = { local, peer: { address: peer.address, port: peer.port }, bytes, ...(pieces ? { ringOf: pieces.size } : {}), options: request.options, maxBlockSize };
        const end = (result: TransferResult) => {
          release();
          if (result.outcome === 'complete' || result.outcome === 'aborted') unheard.giveBack(peer.address);
          record(request, peer.address, opened, result);
        };
        entry.run = pool.run(order, { end, ...(free ? { free } : {}), ...(pieces ? { read: pieces.read } : {}) });
      },
      (error: unknown) => {
        release();
        unheard.giveBack(peer.address);
        counts.failed++;
        fault(error);
        refuse(socket, peer, { code: TFTP_ERROR.undefined, message: 'the server is at fault, see its log' });
      },
    ).catch(fault);
  }

  /** What has ended in its thread may be given back only now. */
  const mayOpen = (ip: Ip4 | Ip6) => unheard.take(ip, monotonicMs()) || (pool.settle(), unheard.take(ip, monotonicMs()));

  const isFull = (ip6: boolean) => entries.size >= limits.transfers || (ip6 && ip6Entries >= limits.ip6);

  /** Ends the transfer that has the least right to its slot, if there is one; only of IPv6 where that is what is full. */
  function makeRoom(): void {
    const now = monotonicMs();
    if (now - lookedAt < LOOK_AGAIN_MS) return;
    const all = entries.size >= limits.transfers;
    const running = [...entries.values()].flatMap(({ run, ip6 }) => (run && (all || ip6) ? [run] : []));
    const found = whoYields(running, limits.slowAfterMs);
    if (!found) lookedAt = now;
    // One that was heard is told why; to one that was not, a packet could be a packet to somebody else.
    else found.stop(found.heard() ? 'the server is busy and this transfer too slow, ask again later' : undefined);
  }

  /** Rejects when it takes too long; what comes later is let go. A disk that hangs would hold the slots for ever. */
  async function openInTime(name: string, ask: TftpAsk): Promise<Opened> {
    const opening = parts.files.open(name, ask);
    let late = false;
    opening.then((opened) => late && 'file' in opened && opened.file.release?.(), () => {});
    let timer: NodeJS.Timeout | undefined;
    const limit = new Promise<never>((_resolve, reject) => {
      timer = setTimeout(() => {
        late = true;
        reject(new Error(`opening ${name.slice(0, 200)} took longer than ${limits.openMs} ms`));
      }, limits.openMs).unref();
    });
    return Promise.race([opening, limit]).finally(() => clearTimeout(timer));
  }

  function record(request: TftpRequest, ip: Ip4, { file, answer }: { readonly file: TftpFile; readonly answer: Answer }, result: TransferResult): void {
    counts[result.outcome]++;
    counts.resent += result.resent;
    const { durationMs, blockSize, windowSize, resent, why } = result;
    const bytes = file.pieces?.size ?? file.bytes.length;
    const fields = { ip, node: answer.node?.name, boot: answer.boot?.id, file: request.file.slice(0, 200), bytes, durationMs, blockSize, windowSize, resent, why };
    if (result.outcome === 'failed') log.warn(fields, 'tftp: transfer failed');
    if (result.outcome !== 'complete') return;
    counts.bytes += bytes;
    log.info(fields, 'tftp: file sent');
    if (answer.boot && file.stage) {
      parts.booter.seen(answer.boot.id, file.stage, { message: plainTftpName(request.file), bytes, durationMs, ...file.detail }).catch(fault);
    }
  }

  return {
    start() {
      for (const listener of listeners) listener.socket.on('message', (datagram, peer) => onDatagram(listener, datagram, peer));
    },
    async stop() {
      stopped = true;
      await pool.stop('the server is stopping');
      await parts.sockets.close();
    },
    counters() {
      const { malformed, wrongTid, threadDeaths } = pool.counters();
      return { ...counts, malformed: counts.malformed + malformed, wrongTid, threadDeaths, active: entries.size };
    },
  };
}

/** What no decision can allow, or undefined. */
function refusalOf(request: TftpRequest): TftpRefusal | undefined {
  if (request.kind === 'wrq') return { code: TFTP_ERROR.accessViolation, message: 'this server takes no files' };
  if (request.mode === 'octet') return undefined;
  // RFC 1350: netascii is a legal mode that we do not offer (0, see message); mail is for writing only, and the rest is no mode at all (4).
  if (request.mode === 'netascii') return { code: TFTP_ERROR.undefined, message: 'only mode octet (binary) is served' };
  return { code: TFTP_ERROR.illegalOperation, message: 'only mode octet (binary) is served' };
}
