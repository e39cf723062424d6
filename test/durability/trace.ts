// Reads what strace saw of a daemon: when each REQUEST came in, when the WAL was written and synced, and when each ACK left.
import { messageOf } from '../../src/dhcp/options.ts';
import { decode } from '../../src/dhcp/packet.ts';

export const TRACED = ['recvfrom', 'recvmsg', 'recvmmsg', 'sendto', 'sendmsg', 'sendmmsg', 'pwrite64', 'pwritev', 'pwritev2', 'write', 'writev', 'fdatasync', 'fsync'];

/** The traced program stays our own child; the tracer stands beside it. */
export function straceTo(file: string): string[] {
  return ['strace', '-D', '-f', '-y', '-x', '-ttt', '-s', '600', '-o', file, '-e', `trace=${TRACED.join(',')}`, '--'];
}

/** All in line numbers. */
interface Moment {
  readonly line: number;
  readonly written: number;
  readonly durable: number;
}

export interface Order {
  readonly acks: number;
  /** Syncs of the WAL that were done, behind a write of it. */
  readonly commits: number;
  /** ACKs that left too early, one line each. */
  readonly early: readonly string[];
}

/** An ACK is early unless, after its REQUEST came in, the WAL was written and then synced; and nothing written to the WAL waits for its sync when it leaves. */
export function orderOf(trace: string): Order {
  const early: string[] = [];
  const count = { acks: 0, commits: 0 };
  /** Line numbers. */
  const arrived = new Map<number, number>();
  let written = -1;
  let durable = -1;
  /** Begun, and to be resumed on a later line, by process. */
  const begun = new Map<string, { readonly text: string; readonly moment: Moment }>();

  const sends = (text: string, { line, written, durable }: Moment): void => {
    for (const packet of datagramsOf(text)) {
      if (packet.op !== 2 || messageOf(packet.options) !== 'ack') continue;
      count.acks++;
      const since = arrived.get(packet.xid);
      const what = `line ${line}: ACK ${packet.xid} for ${packet.yiaddr}`;
      if (since === undefined) early.push(`${what}: no REQUEST came in`);
      else if (durable < since) early.push(`${what}: nothing was written and synced since its REQUEST on line ${since}`);
      else if (durable < written) early.push(`${what}: the WAL was written on line ${written} and not synced`);
    }
  };
  for (const [line, full] of trace.split('\n').entries()) {
    const [, pid, said] = /^(\d+) +[\d.]+ (.*)$/.exec(full) ?? [];
    if (pid === undefined || said === undefined) continue;
    const resumed = /^<\.\.\. \w+ resumed>(.*)$/.exec(said)?.[1];
    const before = resumed === undefined ? undefined : begun.get(pid);
    const text = (before?.text ?? '') + (resumed ?? said);
    const unfinished = /^(.*) <unfinished \.\.\.>$/.exec(said)?.[1];
    // What is sent leaves when the call begins, though strace may know it only when it is done; all else counts when it is done.
    const moment = before?.moment ?? { line, written, durable };
    if (unfinished !== undefined) begun.set(pid, { text: unfinished, moment });
    else if (/^send/.test(text)) sends(text, moment);
    else if (/^recv/.test(text)) for (const packet of datagramsOf(text)) arrived.set(packet.xid, line);
    else if (/^p?writev?\w*\(\d+<[^>]*-wal>/.test(text)) written = line;
    else if (/^f(data)?sync\(\d+<[^>]*-wal>\) += 0$/.test(text) && written > durable) {
      durable = written;
      count.commits++;
    }
  }
  return { ...count, early };
}

/** DHCP messages among the buffers of one call; there are others, such as netlink's. */
function datagramsOf(text: string) {
  return [...text.matchAll(/(?:iov_base=|^\w+\(\d+<[^>]*>, )"((?:\\x[0-9a-f]{2})+)"/g)].flatMap(([, hex]) => {
    const bytes = Buffer.from(hex!.replaceAll('\\x', ''), 'hex');
    return bytes.length > 240 && bytes.readUInt32BE(236) === 0x63825363 ? [decode(bytes)] : [];
  });
}
