// The cards of this machine as the kernel has them: addresses with labels, a card without a cable, one without an address, the default route.
import { execFileSync } from 'node:child_process';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { defaultRouteCard, readCards } from '../../src/dhcp/cards.ts';

const ip = (...words: string[]) => execFileSync('ip', words);
const of = (name: string) => readCards().find((card) => card.name === name)?.addresses;

beforeAll(() => {
  ip('link', 'add', 'card0', 'type', 'veth', 'peer', 'name', 'card1');
  ip('address', 'add', '10.77.0.1/24', 'dev', 'card0');
  ip('address', 'add', '10.88.0.1/16', 'dev', 'card0', 'label', 'card0:x');
  for (const name of ['card0', 'card1']) ip('link', 'set', name, 'up');
});
afterAll(() => void ip('link', 'del', 'card0'));

const both = [
  { address: '10.77.0.1', prefix: 24 },
  { address: '10.88.0.1', prefix: 16 },
];

test('a card has its addresses, those with a label of their own too', () => {
  expect(of('card0')).toEqual(both);
});

test('a card without an IPv4 address is there', () => {
  expect(of('card1')).toEqual([]);
});

test('a card keeps its addresses when its cable is pulled out', () => {
  ip('link', 'set', 'card1', 'down');
  expect(execFileSync('ip', ['link', 'show', 'card0'], { encoding: 'utf8' })).toContain('NO-CARRIER');
  expect(of('card0')).toEqual(both);
  ip('link', 'set', 'card1', 'up');
});

test('the default route is that of the lowest metric, and there may be none', () => {
  expect(defaultRouteCard()).toBeUndefined();
  ip('route', 'add', 'default', 'via', '10.77.0.254', 'dev', 'card0', 'metric', '200');
  expect(defaultRouteCard()).toBe('card0');
  ip('address', 'add', '10.99.0.1/24', 'dev', 'card1');
  ip('route', 'add', 'default', 'via', '10.99.0.254', 'dev', 'card1', 'metric', '100');
  expect(defaultRouteCard()).toBe('card1');
});
