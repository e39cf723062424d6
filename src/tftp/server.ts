// The TFTP server: one listening socket per address; each read request asks the Booter and gets a transfer of its own.
import type { RemoteInfo, Socket } from 'node:dgram';
import type { Ip4 } from '../addr.ts';
import type { Answer, Booter } from '../booter.ts';
import type { Log } from '../log.ts';
import { fileName, type TftpFile, type TftpFiles } from './files.ts';
import { decodeTftp, encodeTftp, TFTP_ERROR, TftpDecodeError, type TftpRequest } from './packet.ts';
import type { TftpSockets } from './sockets.ts';
import { ETHERNET_BLOCK } from './transfer.ts';
import { runTransfer, type RunningTransfer, type TransferResult } from './transfer-socket.ts';

export interface TftpServerParts {
  /** Closed by stop(). */
  readonly sockets: TftpSockets;
  readonly files: TftpFiles;
  readonly booter: Booter;
  readonly log: Log;
  /** Milliseconds on any clock; only differences count, so one that never jumps is best (performance.now). */
  readonly now: () => number;
  /** What the path carries in one block; default for MTU 1500. */
  readonly maxBlockSize?: number;
}

/** Since start; `active` is now. Each request ends in exactly one of complete, aborted, failed, refused, busy or stopped. */
export interface TftpCounters {
  readonly requests: number;
  readonly active: number;
  readonly complete: number;
  /** Asked for the size only: normal. */
  readonly aborted: number;
  readonly failed: number;
  /** By the decision, the name, the mode, or because it wanted to write. */
  readonly refused: number;
  /** Over one of the two limits. */
  readonly busy: number;
  /** Replaced by a newer request of the same peer, or ended by stop(). */
  readonly stopped: number;
  /** A request that a running transfer answers already. */
  readonly duplicates: number;
  readonly malformed: number;
  readonly wrongTid: number;
  /** Bugs and broken stores that a datagram met; logged as errors. */
  readonly faults: number;
  readonly resent: number;
  /** Bytes of complete files. */
  readonly bytes: number;
}

export interface TftpServer {
  /** What came before is lost, and asked again. */
  start(): void;
  /** Ends running transfers with an ERROR 0 and closes the sockets. */
  stop(): Promise<void>;
  counters(): TftpCounters;
}

export const MOST_TRANSFERS = 1024;
export const MOST_TRANSFERS_PER_IP = 64;
/** A peer that asks anew on the same port after this long without an ACK has begun again: a reset machine, or its last ACK was lost. */
const BEGAN_AGAIN_MS = 1_000;

interface Entry {
  /** The request as it came, to tell a duplicate from another request. */
  readonly datagram: Buffer;
  /** Absent while the Booter and the file are being asked. */
  run?: RunningTransfer;
}

/** What a refused client is told. */
class Refusal {
  readonly code: number;
  readonly message: string;
  constructor(code: number, message: string) {
    this.code = code;
    this.message = message;
  }
}

export function createTftpServer(parts: TftpServerParts): TftpServer {
  const { log, now } = parts;
  const { listeners } = parts.sockets;
  let stopped = false;
  const entries = new Map<string, Entry>();
  const perIp = new Map<Ip4, number>();
  const counts = { requests: 0, complete: 0, aborted: 0, failed: 0, refused: 0, busy: 0, stopped: 0, duplicates: 0, malformed: 0, wrongTid: 0, faults: 0, resent: 0, bytes: 0 };

  const refuse = (socket: Socket, peer: RemoteInfo, refusal: Refusal) =>
    socket.send(encodeTftp({ kind: 'error', code: refusal.code, message: refusal.message }), peer.port, peer.address, () => {});

  const fault = (error: unknown) => {
    counts.faults++;
    log.error({ err: error }, 'tftp: a datagram met a fault');
  };

  function onDatagram(socket: Socket, local: Ip4, datagram: Buffer, peer: RemoteInfo): void {
    try {
      if (peer.port === 0) return void counts.malformed++;
      const packet = decodeTftp(datagram);
      // Only requests are answered here: an ERROR for a stray packet could set two servers on each other.
      if (packet.kind !== 'rrq' && packet.kind !== 'wrq') return void counts.malformed++;
      onRequest(socket, local, datagram, packet, peer);
    } catch (error) {
      if (error instanceof TftpDecodeError) counts.malformed++;
      else fault(error);
    }
  }

  function onRequest(socket: Socket, local: Ip4, datagram: Buffer, request: TftpRequest, peer: RemoteInfo): void {
    const key = `${local} ${peer.address}:${peer.port}`;
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
      log.info({ ip: peer.address, file: request.file.slice(0, 200), error: barred.message }, 'tftp: refused');
      return void refuse(socket, peer, barred);
    }
    const mine = perIp.get(peer.address) ?? 0;
    if (entries.size >= MOST_TRANSFERS || mine >= MOST_TRANSFERS_PER_IP) {
      counts.busy++;
      const limit = mine >= MOST_TRANSFERS_PER_IP ? `${mine} transfers run to this address` : `${entries.size} transfers are running`;
      return void refuse(socket, peer, new Refusal(TFTP_ERROR.undefined, `server busy: ${limit}, ask again later`));
    }
    const entry: Entry = { datagram };
    entries.set(key, entry);
    perIp.set(peer.address, mine + 1);
    const release = () => {
      entries.delete(key);
      const left = (perIp.get(peer.address) ?? 1) - 1;
      if (left > 0) perIp.set(peer.address, left);
      else perIp.delete(peer.address);
    };
    openFile(request, peer.address, local).then(
      (opened) => {
        if (opened instanceof Refusal || stopped) {
          release();
          if (!(opened instanceof Refusal)) return void counts.stopped++;
          counts.refused++;
          log.debug({ ip: peer.address, file: request.file.slice(0, 200), error: opened.message }, 'tftp: refused');
          return void refuse(socket, peer, opened);
        }
        entry.run = runTransfer({
          local,
          peer: { address: peer.address, port: peer.port },
          bytes: opened.file.bytes,
          options: request.options,
          maxBlockSize: parts.maxBlockSize ?? ETHERNET_BLOCK,
          now,
          onEnd: (result) => {
            release();
            record(request, peer.address, opened, result);
          },
          onStray: (what, error) => (what === 'faults' ? fault(error) : counts[what]++),
        });
      },
      (error: unknown) => {
        release();
        counts.failed++;
        fault(error);
        refuse(socket, peer, new Refusal(TFTP_ERROR.undefined, 'the server is at fault, see its log'));
      },
    ).catch(fault);
  }

  async function openFile(request: TftpRequest, ip: Ip4, local: Ip4): Promise<Refusal | { readonly file: TftpFile; readonly answer: Answer }> {
    const answer = await parts.booter.ask({ via: 'tftp', ip });
    const { decision } = answer;
    if (decision.kind === 'silent') return new Refusal(TFTP_ERROR.accessViolation, decision.why);
    if (decision.kind === 'local') return new Refusal(TFTP_ERROR.notFound, decision.why);
    const file = await parts.files.open(fileName(request.file), { ip, local, answer });
    return file ? { file, answer } : new Refusal(TFTP_ERROR.notFound, 'file not found');
  }

  function record(request: TftpRequest, ip: Ip4, { file, answer }: { readonly file: TftpFile; readonly answer: Answer }, result: TransferResult): void {
    counts[result.outcome]++;
    counts.resent += result.resent;
    const { durationMs, blockSize, resent, why } = result;
    const fields = { ip, node: answer.node?.name, boot: answer.boot?.id, file: request.file.slice(0, 200), bytes: file.bytes.length, durationMs, blockSize, resent, why };
    if (result.outcome === 'failed') log.warn(fields, 'tftp: transfer failed');
    if (result.outcome !== 'complete') return;
    counts.bytes += file.bytes.length;
    log.info(fields, 'tftp: file sent');
    if (answer.boot && file.stage) {
      parts.booter.seen(answer.boot.id, file.stage, { message: fileName(request.file), bytes: file.bytes.length, durationMs }).catch(fault);
    }
  }

  return {
    start() {
      for (const { socket, localFor } of listeners) socket.on('message', (datagram, peer) => onDatagram(socket, localFor(peer.address), datagram, peer));
    },
    async stop() {
      stopped = true;
      for (const entry of [...entries.values()]) entry.run?.stop('the server is stopping');
      await parts.sockets.close();
    },
    counters: () => ({ ...counts, active: entries.size }),
  };
}

/** What no decision can allow, or undefined. */
function refusalOf(request: TftpRequest): Refusal | undefined {
  if (request.kind === 'wrq') return new Refusal(TFTP_ERROR.accessViolation, 'this server takes no files');
  if (request.mode === 'octet') return undefined;
  // RFC 1350: netascii is a legal mode that we do not offer (0, see message); mail is for writing only, and the rest is no mode at all (4).
  if (request.mode === 'netascii') return new Refusal(TFTP_ERROR.undefined, 'only mode octet (binary) is served');
  return new Refusal(TFTP_ERROR.illegalOperation, 'only mode octet (binary) is served');
}
