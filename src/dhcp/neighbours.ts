// Who is on the links of this machine by the kernel's ARP table: anybody may read it, and one UDP byte makes the kernel ask.
import { readFile } from 'node:fs/promises';
import type { Ip4, Mac } from '../addr.ts';

/** The discard port (RFC 863). Nobody needs to listen there: the question is asked before the byte can leave. */
export const DISCARD_PORT = 9;
export const ONE_BYTE = Uint8Array.of(0);

export interface Neighbour {
  readonly ip: Ip4;
  readonly link: string;
  /** Absent while nobody has answered, and when the one who did has gone. */
  readonly mac?: Mac;
}

/** Flag 2 is "complete". An entry that failed keeps the MAC of the machine that left, without the flag (measured, Linux 6.18). */
const COMPLETE = 2;

/** The text of /proc/net/arp; lines that are not understood are left out. */
export function parseNeighbours(text: string): Neighbour[] {
  return text.split('\n').slice(1).flatMap((line) => {
    const [ip, , flags, mac, , link] = line.split(/\s+/);
    if (!ip || !mac || !link) return [];
    return [{ ip, link, ...(Number(flags) & COMPLETE && mac !== '00:00:00:00:00:00' ? { mac } : {}) }];
  });
}

let reading: Promise<readonly Neighbour[]> | undefined;

/** The table as it is now; those who ask at once share one reading. */
export function readNeighbours(): Promise<readonly Neighbour[]> {
  // Of ourselves: /proc/net is a link to the same, and /sys can show another namespace.
  reading ??= readFile('/proc/self/net/arp', 'utf8')
    .then(parseNeighbours)
    .finally(() => (reading = undefined));
  return reading;
}

/** Undefined: there is no entry at all, so nobody was asked. */
export async function findNeighbour(link: string, ip: Ip4): Promise<Neighbour | undefined> {
  return (await readNeighbours()).find((entry) => entry.ip === ip && entry.link === link);
}
