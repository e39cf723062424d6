// A leased address on the card for the time of a fetch: servers that know machines by their address see the one that they gave.
import { execFile, execFileSync } from 'node:child_process';
import { createSocket } from 'node:dgram';
import { once } from 'node:events';
import { readFile } from 'node:fs/promises';
import { promisify } from 'node:util';
import type { Ip4 } from '../addr.ts';
import { lineOf } from '../errors.ts';
import { isOnLink, type Card } from './card.ts';

export type Borrowed =
  /** `giveBack` takes it off the card again and never fails. */
  | { readonly kind: 'borrowed'; giveBack(): void }
  /** `inUse`: another machine answers for it, so it must be neither used nor released. */
  | { readonly kind: 'refused'; readonly why: string; readonly inUse: boolean };

/** The kernel removes the address then by itself, and its routes with it, should we be killed. Longer than any fetch. */
const LIFETIME_S = 300;
const ARP_MS = 400;

const ip = (...args: string[]) => promisify(execFile)('ip', args);

/**
 * Puts the address on the card, and a route for each server that names it as the source (the tftp package cannot be told its address).
 * Refuses an address that is not on the card's link, or that a machine uses.
 */
export async function borrow(card: Card, address: Ip4, servers: readonly Ip4[]): Promise<Borrowed> {
  if (card.addresses.some((own) => own.address === address)) return { kind: 'borrowed', giveBack: () => {} };
  if (!isOnLink(card, address)) return { kind: 'refused', why: `${address} is not in the subnet that ${card.name} has an address in`, inUse: false };
  const user = await userOf(card, address);
  if (user) return { kind: 'refused', why: `${address} is in use: ${user} answers for it`, inUse: true };
  const giveBack = () => {
    process.off('SIGINT', onSignal).off('SIGTERM', onSignal);
    try {
      // Its routes go with it.
      execFileSync('ip', ['address', 'del', `${address}/32`, 'dev', card.name], { stdio: 'ignore' });
    } catch {
      // Gone already: its lifetime ended, or so did the card.
    }
  };
  const onSignal = (signal: NodeJS.Signals): void => {
    giveBack();
    process.kill(process.pid, signal);
  };
  process.on('SIGINT', onSignal).on('SIGTERM', onSignal);
  try {
    // Synchronous, so that a signal is heard either before or after it, and never finds an address that nobody takes away.
    execFileSync('ip', ['address', 'add', `${address}/32`, 'dev', card.name, 'valid_lft', String(LIFETIME_S), 'preferred_lft', String(LIFETIME_S)], { encoding: 'utf8', stdio: ['ignore', 'ignore', 'pipe'] });
  } catch (error) {
    process.off('SIGINT', onSignal).off('SIGTERM', onSignal);
    return { kind: 'refused', why: `the address cannot be put on ${card.name}: ${reasonOf(error)}`, inUse: false };
  }
  try {
    for (const server of servers) await ip('route', 'add', `${server}/32`, 'dev', card.name, 'src', address);
  } catch (error) {
    giveBack();
    return { kind: 'refused', why: `no route from ${address}: ${reasonOf(error)}`, inUse: false };
  }
  return { kind: 'borrowed', giveBack };
}

/** The MAC that answers ARP for the address: one byte to the discard port makes the kernel ask (TRAPS 2). */
async function userOf(card: Card, address: Ip4): Promise<string | undefined> {
  // What the kernel still remembers of a machine that has gone would count as an answer.
  await ip('neighbour', 'del', address, 'dev', card.name).catch(() => {});
  const socket = createSocket('udp4');
  try {
    socket.bind(0, card.addresses[0].address);
    await once(socket, 'listening');
    socket.on('error', () => {});
    socket.send(Uint8Array.of(0), 9, address);
    for (const until = performance.now() + ARP_MS; performance.now() < until; ) {
      await new Promise((resolve) => setTimeout(resolve, 20));
      const table = await readFile('/proc/self/net/arp', 'utf8');
      const entry = table.split('\n').map((line) => line.split(/\s+/)).find((words) => words[0] === address && words[5] === card.name);
      // Flag 2: complete.
      if (entry && Number(entry[2]) & 2) return entry[3];
    }
    return undefined;
  } finally {
    socket.close();
  }
}

function reasonOf(error: unknown): string {
  const stderr = (error as { stderr?: string }).stderr?.trim().split('\n').at(-1);
  return stderr || lineOf(error);
}
