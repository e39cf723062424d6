// What waits to be answered: lanes, limits, and what is dropped.
import { describe, expect, it } from 'vitest';
import { createInbox, INBOX_LIMITS, type Inbox } from '../../src/dhcp/inbox.ts';

const drain = (inbox: Inbox<string>, now: number): string[] => {
  const items: string[] = [];
  for (let next = inbox.next(now); next; next = inbox.next(now)) items.push(next.item);
  return items;
};
const mac = (n: number) => `52:54:00:00:00:${n.toString(16).padStart(2, '0')}`;
const small = (more: Partial<typeof INBOX_LIMITS> = {}) => createInbox<string>({ ...INBOX_LIMITS, ...more });

describe('the inbox', () => {
  it('gives nodes before strangers, and each in the order in which they came', () => {
    const inbox = small();
    for (const [i, known] of [false, true, false, true].entries()) inbox.put(`${known ? 'node' : 'stranger'} ${i}`, mac(i), known, i);
    expect(drain(inbox, 10)).toEqual(['node 1', 'node 3', 'stranger 0', 'stranger 2']);
    expect(inbox.next(10)).toBeUndefined();
  });

  it('says when each came in', () => {
    const inbox = small();
    inbox.put('one', mac(1), true, 77);
    expect(inbox.next(80)).toEqual({ item: 'one', at: 77 });
  });

  it('full, it drops the oldest first', () => {
    const inbox = small({ capacity: 3 });
    for (let i = 0; i < 5; i++) expect(inbox.put(`s${i}`, mac(i), false, i)).toBe(true);
    expect(drain(inbox, 10)).toEqual(['s2', 's3', 's4']);
    expect(inbox.counters.overrun).toBe(2);
  });

  it('a flood of strangers drives no node out', () => {
    const inbox = small({ capacity: 3 });
    inbox.put('node', mac(1), true, 0);
    for (let i = 0; i < 100; i++) inbox.put(`s${i}`, mac(100 + i), false, 1);
    expect(drain(inbox, 2)).toEqual(['node', 's97', 's98', 's99']);
  });

  it('a ring goes round: what is put in after it was emptied comes out again', () => {
    const inbox = small({ capacity: 3 });
    for (let i = 0; i < 10; i++) {
      inbox.put(`a${i}`, mac(i), false, i);
      inbox.put(`b${i}`, mac(50 + i), false, i);
      expect(drain(inbox, i)).toEqual([`a${i}`, `b${i}`]);
    }
  });

  it('passes over what is older than 4 s: its client has asked again', () => {
    const inbox = small();
    for (const at of [0, 1, 4000]) inbox.put(`at ${at}`, mac(at), true, at);
    expect(drain(inbox, 4001)).toEqual(['at 1', 'at 4000']);
    expect(inbox.counters.stale).toBe(1);
  });

  it('a stale node does not keep a fresh stranger waiting', () => {
    const inbox = small();
    inbox.put('old node', mac(1), true, 0);
    inbox.put('stranger', mac(2), false, 5000);
    expect(inbox.next(5000)?.item).toBe('stranger');
  });
});

describe('the limit of one machine', () => {
  it('10 at once, then 5 a second', () => {
    const inbox = small();
    const taken = (at: number, count: number) => Array.from({ length: count }, () => inbox.put('x', mac(7), false, at)).filter(Boolean).length;
    expect(taken(0, 30)).toBe(10);
    expect(taken(100, 5)).toBe(0);
    expect(taken(200, 5)).toBe(1);
    expect(taken(1200, 30)).toBe(5);
    expect(taken(60_000, 30)).toBe(10);
    expect(inbox.counters.limited).toBe(20 + 5 + 4 + 25 + 20);
  });

  it('five a second for a minute are all taken', () => {
    const inbox = small();
    for (let i = 0; i < 300; i++) expect(inbox.put('x', mac(7), true, i * 200)).toBe(true);
  });

  it('is each machine\'s own, a node\'s too', () => {
    const inbox = small();
    for (let i = 0; i < 20; i++) inbox.put('loud', mac(1), true, 0);
    expect(inbox.put('quiet', mac(2), true, 0)).toBe(true);
    expect(inbox.put('loud', mac(1), true, 0)).toBe(false);
  });

  it('what is over the limit drives nothing out', () => {
    const inbox = small({ capacity: 12 });
    inbox.put('first', mac(1), false, 0);
    for (let i = 0; i < 100; i++) inbox.put('loud', mac(2), false, 0);
    expect(drain(inbox, 0)[0]).toBe('first');
  });

  it('forgets who was heard longest ago when too many machines are known, so that a flood of addresses costs no memory', () => {
    const inbox = small({ machines: 2 });
    for (let i = 0; i < 10; i++) inbox.put('x', mac(1), false, 0);
    inbox.put('x', mac(2), false, 0);
    expect(inbox.put('x', mac(1), false, 0)).toBe(false);
    inbox.put('x', mac(3), false, 0);
    inbox.put('x', mac(4), false, 0);
    expect(inbox.put('x', mac(1), false, 0)).toBe(true);
  });
});
