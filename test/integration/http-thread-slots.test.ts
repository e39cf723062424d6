// Image slots of an HTTP thread that dies: those that it holds and those that it was being given just then are given back, each once.
import { afterEach, expect, it } from 'vitest';
import type { Answer, Booter } from '../../src/booter.ts';
import { digestOfBytes } from '../../src/digest.ts';
import { dial, openSite, type Site } from './front.ts';

const PORT = 8181;
let site: Site | undefined;
afterEach(async () => {
  await site?.stop();
  site = undefined;
});

it('the slots of a thread that dies are given back, also one that it was given while it died', async () => {
  const image = Buffer.alloc(24 << 20, 'image');
  const given: string[] = [];
  const released: [string, string][] = [];
  const held: ((answer: Answer) => void)[] = [];
  const never = async (): Promise<never> => Promise.reject(new Error('not in this test'));
  const decision = { kind: 'boot', bootSet: digestOfBytes('x') } as const;
  const booter: Booter = {
    // The first one gets its slot at once, the second one when its thread is dead.
    ask: async () => (given.push(`slot-${given.length + 1}`) === 1 ? { decision, ticket: 'slot-1' } : new Promise<Answer>((resolve) => void held.push(resolve))),
    seen: async () => undefined,
    leased: never,
    enrol: never,
    session: async () => undefined,
    report: never,
    release: async (ticket, how) => void released.push([ticket, how]),
  };
  site = await openSite({ port: PORT, threads: 1, booter });
  const path = await site.publish(image);
  const clients = [await dial(PORT), await dial(PORT)];
  for (const [i, { socket }] of clients.entries()) {
    socket.pause();
    socket.write(`GET ${path} HTTP/1.1\r\nhost: x\r\n\r\n`);
    await expect.poll(() => given.length).toBe(i + 1);
  }
  expect(released).toEqual([]);
  await site.front.workers[0]!.terminate();
  await expect.poll(() => released).toEqual([['slot-1', 'cut']]);
  held[0]!({ decision, ticket: 'slot-2' });
  await expect.poll(() => released).toEqual([['slot-1', 'cut'], ['slot-2', 'cut']]);
  for (const { socket } of clients) socket.destroy();
});
