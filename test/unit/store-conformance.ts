// What every engine behind store/* owes its callers: one suite a store, run against a factory that opens fresh, empty stores.
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import type { BootSet, Generation } from '../../src/boot/profile.ts';
import { digestOfValue } from '../../src/digest.ts';
import type { ArtifactStore } from '../../src/store/artifacts.ts';
import type { BootStore, NewBoot } from '../../src/store/boots.ts';
import { EVENTS_KEPT, type EventStore } from '../../src/store/events.ts';
import type { LeaseStore } from '../../src/store/leases.ts';
import type { NodeStore } from '../../src/store/nodes.ts';
import type { VerdictStore } from '../../src/store/verdicts.ts';

export interface Stores {
  readonly leases: LeaseStore;
  readonly boots: BootStore;
  readonly nodes: NodeStore;
  readonly artifacts: ArtifactStore;
  readonly events: EventStore;
  readonly verdicts: VerdictStore;
  /** Closes and opens again: what was acknowledged must be there. */
  reopen(): Promise<Stores>;
  close(): Promise<void>;
}
export type OpenStores = () => Promise<Stores>;

const DIGEST = (letter: string): string => `sha256:${letter.repeat(64)}`;
const NET = '10.77.0.0/24';
const A = '52:54:00:00:00:0a';
const B = '52:54:00:00:00:0b';
const NOW = 1_750_000_000_000;
const HOUR = 3_600_000;

function withStores(name: string, open: OpenStores, tests: (stores: () => Stores, replace: (stores: Stores) => void) => void): void {
  describe(name, () => {
    let stores: Stores;
    beforeEach(async () => void (stores = await open()));
    afterEach(() => stores.close());
    tests(() => stores, (next) => (stores = next));
  });
}

export function leaseStoreSuite(open: OpenStores): void {
  withStores('a lease store', open, (stores, replace) => {
    const take = (ip: string, mac: string, now = NOW, subnet = NET) => stores().leases.take({ ip, mac, subnet, expiresAt: now + HOUR }, now);

    it('gives a free address and still has it after a restart', async () => {
      const lease = await take('10.77.0.11', A);
      expect(lease).toEqual({ ip: '10.77.0.11', mac: A, holder: A, subnet: NET, expiresAt: NOW + HOUR, startedAt: NOW });
      replace(await stores().reopen());
      expect(await stores().leases.at('10.77.0.11')).toEqual(lease);
      expect(await stores().leases.of(A, NET)).toEqual(lease);
    });

    it('lets exactly one of two machines win an address that both want at once', async () => {
      const answers = await Promise.all([take('10.77.0.11', A), take('10.77.0.11', B)]);
      expect(answers.filter((answer) => answer !== undefined)).toHaveLength(1);
      expect((await stores().leases.at('10.77.0.11'))?.mac).toBe(answers[0] ? A : B);
    });

    it('renews for the holder and refuses others without a change until it has expired', async () => {
      await take('10.77.0.11', A);
      expect(await take('10.77.0.11', B, NOW + HOUR - 1)).toBeUndefined();
      expect((await take('10.77.0.11', A, NOW + HOUR - 1))?.expiresAt).toBe(NOW + 2 * HOUR - 1);
      expect(await take('10.77.0.11', B, NOW + HOUR)).toBeUndefined();
      expect((await take('10.77.0.11', B, NOW + 2 * HOUR - 1))?.mac).toBe(B);
      expect(await stores().leases.of(A, NET)).toBeUndefined();
    });

    it('ends the older lease of a machine in the same subnet only', async () => {
      await take('10.77.0.11', A);
      await take('10.88.0.11', A, NOW, '10.88.0.0/24');
      await take('10.77.0.12', A);
      expect(await stores().leases.at('10.77.0.11')).toBeUndefined();
      expect((await stores().leases.of(A, '10.88.0.0/24'))?.ip).toBe('10.88.0.11');
    });

    it('keeps the older lease when the new address is refused', async () => {
      await take('10.77.0.11', A);
      await take('10.77.0.12', B);
      expect(await take('10.77.0.12', A)).toBeUndefined();
      expect((await stores().leases.of(A, NET))?.ip).toBe('10.77.0.11');
    });

    it('frees a released address at once, remembers it for its machine, and ignores a stranger who releases it', async () => {
      await take('10.77.0.11', A);
      await stores().leases.release('10.77.0.11', B);
      expect(await take('10.77.0.11', B)).toBeUndefined();
      await stores().leases.release('10.77.0.11', A);
      expect(await stores().leases.of(A, NET)).toMatchObject({ ip: '10.77.0.11', expiresAt: 0 });
      expect((await take('10.77.0.11', B))?.mac).toBe(B);
    });

    it('keeps a declined address from everybody until then, also from who held it', async () => {
      await take('10.77.0.11', A);
      await stores().leases.decline('10.77.0.11', NET, NOW + HOUR);
      expect(await take('10.77.0.11', A)).toBeUndefined();
      expect(await take('10.77.0.11', B, NOW + HOUR - 1)).toBeUndefined();
      expect(await stores().leases.of(A, NET)).toBeUndefined();
      expect((await take('10.77.0.12', A))?.ip).toBe('10.77.0.12');
      expect(await stores().leases.at('10.77.0.11')).toMatchObject({ declinedUntil: NOW + HOUR });
      const after = await take('10.77.0.11', B, NOW + HOUR);
      expect(after).toEqual({ ip: '10.77.0.11', mac: B, holder: B, subnet: NET, expiresAt: NOW + 2 * HOUR, startedAt: NOW + HOUR });
      expect(await stores().leases.at('10.77.0.11')).toEqual(after);
    });

    it('quarantines several addresses of a subnet that nobody held', async () => {
      await stores().leases.decline('10.77.0.12', NET, NOW + HOUR);
      await stores().leases.decline('10.77.0.11', NET, NOW + HOUR);
      expect((await stores().leases.list(NET)).map((lease) => lease.ip)).toEqual(['10.77.0.11', '10.77.0.12']);
    });

    it('lists a subnet in the order of its addresses, expired ones too', async () => {
      await take('10.77.0.100', A);
      await take('10.77.0.9', B, NOW - 2 * HOUR);
      await take('10.88.0.1', A, NOW, '10.88.0.0/24');
      expect((await stores().leases.list(NET)).map((lease) => lease.ip)).toEqual(['10.77.0.9', '10.77.0.100']);
      expect(await stores().leases.list()).toHaveLength(3);
    });

    it('lists in pages, each from behind the last address of the one before', async () => {
      for (const [ip, mac, subnet] of [['10.77.0.9', A, NET], ['10.77.0.100', B, NET], ['10.88.0.1', A, '10.88.0.0/24']] as const) await take(ip, mac, NOW, subnet);
      const page = async (subnet?: string, after?: string) => (await stores().leases.list(subnet, { limit: 2, ...(after ? { after } : {}) })).map((lease) => lease.ip);
      expect(await page()).toEqual(['10.77.0.9', '10.77.0.100']);
      expect(await page(undefined, '10.77.0.100')).toEqual(['10.88.0.1']);
      expect(await page(NET, '10.77.0.9')).toEqual(['10.77.0.100']);
      expect((await stores().leases.list()).map((lease) => lease.subnet)).toEqual([NET, NET, '10.88.0.0/24']);
    });

    it('knows addresses above 127.255.255.255, which do not fit a signed number', async () => {
      const lease = await take('192.168.5.9', A, NOW, '192.168.5.0/24');
      expect(await stores().leases.list('192.168.5.0/24')).toEqual([lease]);
      expect(await stores().leases.at('192.168.5.9')).toEqual(lease);
    });

    it('gives one lease to a node, whichever of its cards asks', async () => {
      await stores().leases.take({ ip: '10.77.0.11', mac: A, holder: 'n1', subnet: NET, expiresAt: NOW + HOUR }, NOW);
      expect(await stores().leases.take({ ip: '10.77.0.11', mac: B, holder: 'n1', subnet: NET, expiresAt: NOW + HOUR }, NOW)).toMatchObject({ mac: B, holder: 'n1' });
      await stores().leases.take({ ip: '10.77.0.12', mac: A, holder: 'n1', subnet: NET, expiresAt: NOW + HOUR }, NOW);
      expect(await stores().leases.list()).toMatchObject([{ ip: '10.77.0.12', mac: A, holder: 'n1' }]);
      expect(await stores().leases.of('n1', NET)).toMatchObject({ ip: '10.77.0.12' });
    });

    it('leaves a machine its lease when it becomes a node, and when it is none any more', async () => {
      await take('10.77.0.11', A);
      expect(await stores().leases.take({ ip: '10.77.0.11', mac: A, holder: 'n1', subnet: NET, expiresAt: NOW + HOUR }, NOW)).toMatchObject({ holder: 'n1', startedAt: NOW });
      expect(await take('10.77.0.11', A)).toMatchObject({ holder: A });
      await stores().leases.take({ ip: '10.77.0.12', mac: A, holder: 'n1', subnet: NET, expiresAt: NOW + HOUR }, NOW);
      expect((await stores().leases.list()).map((lease) => lease.ip)).toEqual(['10.77.0.12']);
    });

    it('keeps name and client id through a renewal that does not repeat them, and forgets them with the holder', async () => {
      const say = { hostname: 'web', clientId: '0152540000000a' };
      await stores().leases.take({ ip: '10.77.0.11', mac: A, subnet: NET, expiresAt: NOW + HOUR, ...say }, NOW);
      expect(await take('10.77.0.11', A, NOW + 1)).toMatchObject({ ...say, startedAt: NOW });
      expect(await stores().leases.at('10.77.0.11')).toMatchObject({ ...say, startedAt: NOW, expiresAt: NOW + 1 + HOUR });
      expect(await take('10.77.0.11', B, NOW + 2 * HOUR)).toEqual({ ip: '10.77.0.11', mac: B, holder: B, subnet: NET, expiresAt: NOW + 3 * HOUR, startedAt: NOW + 2 * HOUR });
    });

    it('starts a lease anew when the holder comes back after its end', async () => {
      await take('10.77.0.11', A);
      expect(await take('10.77.0.11', A, NOW + HOUR)).toMatchObject({ startedAt: NOW + HOUR });
    });

    it('puts in foreign leases and answers those that clash with the reason', async () => {
      await take('10.77.0.11', A);
      await stores().leases.decline('10.77.0.12', NET, NOW + HOUR);
      await take('10.77.0.13', '52:54:00:00:00:0c', NOW - 2 * HOUR);
      const foreign = (ip: string, mac: string | undefined, expiresAt = NOW + 2 * HOUR) => ({ ip, subnet: NET, expiresAt, ...(mac ? { mac } : {}) });
      const rows = [
        foreign('10.77.0.11', B), foreign('10.77.0.12', B), foreign('10.77.0.14', A), foreign('10.77.0.13', B), foreign('10.77.0.15', B),
        foreign('10.77.0.16', undefined), foreign('10.77.0.11', A), foreign('10.77.0.11', A),
      ];
      const before = await stores().leases.list();
      expect((await stores().leases.put([rows[0]!, rows[3]!], NOW, true)).taken.map((lease) => lease.ip)).toEqual(['10.77.0.13']);
      expect(await stores().leases.list()).toEqual(before);
      const { taken, skipped } = await stores().leases.put(rows, NOW);
      expect(skipped).toEqual([
        { ip: '10.77.0.11', why: `is leased to ${A}` },
        { ip: '10.77.0.12', why: 'is in quarantine' },
        { ip: '10.77.0.14', why: `${A} holds 10.77.0.11 already` },
        { ip: '10.77.0.15', why: `${B} holds 10.77.0.13 already` },
        { ip: '10.77.0.11', why: 'is known already' },
      ]);
      expect(taken.map((lease) => [lease.ip, lease.mac])).toEqual([['10.77.0.13', B], ['10.77.0.16', '00:00:00:00:00:00'], ['10.77.0.11', A]]);
      expect(await stores().leases.at('10.77.0.11')).toMatchObject({ expiresAt: NOW + 2 * HOUR });
      expect(await take('10.77.0.16', '52:54:00:00:00:0d')).toBeUndefined();
    });

    it('puts in more leases than one transaction has', async () => {
      const many = Array.from({ length: 1201 }, (_, i) => ({ ip: `10.78.${i >> 8}.${i & 255}`, mac: `52:54:00:01:${(i >> 8).toString(16).padStart(2, '0')}:${(i & 255).toString(16).padStart(2, '0')}`, subnet: '10.78.0.0/16', expiresAt: NOW + HOUR }));
      const { taken, skipped } = await stores().leases.put(many, NOW);
      expect([taken.length, skipped]).toEqual([1201, []]);
      expect(await stores().leases.list('10.78.0.0/16')).toHaveLength(1201);
    });

    it('forgets an address when told to, also a quarantine', async () => {
      await take('10.77.0.11', A);
      await stores().leases.decline('10.77.0.12', NET, NOW + HOUR);
      expect([await stores().leases.remove('10.77.0.11'), await stores().leases.remove('10.77.0.12'), await stores().leases.remove('10.77.0.13')]).toEqual([true, true, false]);
      expect(await stores().leases.list()).toEqual([]);
    });
  });
}

function bootSetWith(cmdline: string): BootSet {
  const blob = { digest: DIGEST('1'), size: 1 };
  return {
    image: { name: 'debian', digest: DIGEST('2'), arch: 'amd64', kernel: blob, initrds: [blob], squashfs: blob },
    cmdline: [cmdline], root: { state: 'none' }, artifacts: {}, vars: {},
  };
}

export function bootStoreSuite(open: OpenStores): void {
  withStores('a boot store', open, (stores, replace) => {
    const boots = () => stores().boots;
    const newBoot = (id: string, more: Partial<NewBoot> = {}): NewBoot => ({ id, node: 'n1', mac: A, profile: 'p', generation: DIGEST('a'), startedAt: NOW, ...more });
    const set = bootSetWith('quiet');
    const digest = digestOfValue(set);
    const fix = (id: string, bootSet = set) => boots().fixBootSet(id, digestOfValue(bootSet), bootSet, { profile: 'k0s-single', generation: DIGEST('b') });

    it('keeps what fitted the machine when its boot started', async () => {
      const quirks = [{ name: 'q', by: ['mac prefix 08:00:27'], send: { blksize: 1024, exit: 'sanboot' } }] as const;
      const boot = { node: 'n1', mac: '52:54:00:00:00:01', profile: 'p', generation: DIGEST('1'), startedAt: NOW };
      expect((await boots().start({ ...boot, id: '1', quirks })).quirks).toEqual(quirks);
      expect((await boots().open('n1'))?.quirks).toEqual(quirks);
      await boots().end('1', 'ready', NOW);
      expect((await boots().get('1'))?.quirks).toEqual(quirks);
      expect(await boots().start({ ...boot, id: '2', quirks: [] })).not.toHaveProperty('quirks');
    });

    it('starts an open boot with nothing seen yet', async () => {
      const boot = await boots().start(newBoot('1'));
      expect(boot).toEqual({ id: '1', node: 'n1', mac: A, state: 'open', startedAt: NOW, profile: 'p', generation: DIGEST('a'), stages: [] });
      replace(await stores().reopen());
      expect(await boots().open('n1')).toEqual(boot);
      expect(await boots().get('1')).toEqual(boot);
      expect(await boots().get('2')).toBeUndefined();
    });

    it('ends the open boot of the same node when a new one starts, naming it, and no other node\'s', async () => {
      await boots().start(newBoot('0', { node: 'n2', mac: B }));
      await boots().start(newBoot('1'));
      await boots().start(newBoot('2', { startedAt: NOW + 5 }));
      expect(await boots().get('1')).toMatchObject({ state: 'unfinished', endedAt: NOW + 5, why: expect.stringContaining('boot 2') });
      expect((await boots().open('n1'))?.id).toBe('2');
      expect((await boots().open('n2'))?.id).toBe('0');
    });

    it('has one open boot when two start at once', async () => {
      await Promise.all([boots().start(newBoot('1')), boots().start(newBoot('2'))]);
      expect((await boots().list({ node: 'n1', limit: 9 })).map((boot) => boot.state).sort()).toEqual(['open', 'unfinished']);
    });

    it('fixes a boot set once and answers the first one afterwards', async () => {
      await boots().start(newBoot('1'));
      expect(await fix('1')).toMatchObject({ bootSet: digest, generation: DIGEST('b') });
      const again = await boots().fixBootSet('1', digestOfValue(bootSetWith('other')), bootSetWith('other'), { profile: 'other', generation: DIGEST('c') });
      expect(again).toMatchObject({ bootSet: digest, generation: DIGEST('b') });
      expect(await boots().bootSet(digest)).toEqual(set);
      expect(await boots().bootSet(DIGEST('f'))).toBeUndefined();
    });

    it('refuses a boot set under a digest that is not its own', async () => {
      await boots().start(newBoot('1'));
      await expect(boots().fixBootSet('1', DIGEST('e'), set, { profile: 'k0s-single', generation: DIGEST('b') })).rejects.toMatchObject({ code: 'BUG' });
      expect((await boots().get('1'))?.bootSet).toBeUndefined();
    });

    it('sees that a boot set was changed since it was fixed last', async () => {
      const changing = { ...set, cmdline: ['quiet'] };
      await boots().start(newBoot('1'));
      await fix('1', changing);
      changing.cmdline.push('loud');
      await boots().start(newBoot('2', { node: 'n2' }));
      await expect(boots().fixBootSet('2', digest, changing, { profile: 'p', generation: DIGEST('b') })).rejects.toMatchObject({ code: 'BUG' });
    });

    it('fixes none for a boot that has ended and knows when there is no such boot', async () => {
      await boots().start(newBoot('1'));
      await boots().end('1', 'failed', NOW + 1, 'why');
      expect((await fix('1')).bootSet).toBeUndefined();
      await expect(fix('9')).rejects.toMatchObject({ code: 'BOOT_UNKNOWN' });
    });

    it('lets the first enrolment win', async () => {
      await boots().start(newBoot('1'));
      const both = await Promise.all([boots().enrol('1', 'hash-1', NOW + 1), boots().enrol('1', 'hash-2', NOW + 1)]);
      expect(both).toEqual([true, false]);
      expect(await boots().get('1')).toMatchObject({ tokenHash: 'hash-1', enrolledAt: NOW + 1 });
      expect(await boots().enrol('9', 'hash', NOW)).toBe(false);
      await boots().start(newBoot('2'));
      await boots().end('2', 'failed', NOW + 2);
      expect(await boots().enrol('2', 'hash', NOW + 3)).toBe(false);
    });

    it('keeps the first time of a stage, counts and takes over the newest state and detail', async () => {
      await boots().start(newBoot('1'));
      await boots().see('1', { name: 'discover', state: 'ok', at: NOW });
      await boots().see('1', { name: 'step:30-k0s', state: 'running', at: NOW + 1, detail: { message: 'first' } });
      await boots().see('1', { name: 'discover', state: 'ok', at: NOW + 2 });
      await boots().see('1', { name: 'step:30-k0s', state: 'failed', at: NOW + 3, detail: { exitCode: 2, tail: 'no\u0000 such \ud83d\ude00' } });
      expect((await boots().withTails('1'))?.stages).toEqual([
        { name: 'discover', state: 'ok', firstAt: NOW, lastAt: NOW + 2, count: 2, detail: {} },
        { name: 'step:30-k0s', state: 'failed', firstAt: NOW + 1, lastAt: NOW + 3, count: 2, detail: { exitCode: 2, tail: 'no\u0000 such \ud83d\ude00' } },
      ]);
      await expect(boots().see('9', { name: 'offer', state: 'ok', at: NOW })).rejects.toMatchObject({ code: 'BOOT_UNKNOWN' });
    });

    it('keeps the last 64 KiB of a tail, cut between characters', async () => {
      await boots().start(newBoot('1'));
      await boots().see('1', { name: 'step:10', state: 'ok', at: NOW, detail: { tail: `x${'\u00e9'.repeat(40_000)}z` } });
      const tail = (await boots().withTails('1'))?.stages[0]?.detail.tail;
      expect((await boots().get('1'))?.stages[0]?.detail).toEqual({});
      expect(tail).toBe(`${'\u00e9'.repeat(32_767)}z`);
    });

    it('takes the newest address', async () => {
      await boots().start(newBoot('1'));
      await boots().setAddress('1', '10.77.0.11', '52:54:00:00:00:01');
      await boots().setAddress('1', '10.77.0.12', '52:54:00:00:00:02');
      expect(await boots().get('1')).toMatchObject({ ip: '10.77.0.12', mac: '52:54:00:00:00:02' });
      expect((await boots().openAt('10.77.0.12'))?.id).toBe('1');
      expect(await boots().openAt('10.77.0.11')).toBeUndefined();
      // A machine that was switched off in the middle, whose address another one has by now.
      await boots().start(newBoot('2', { node: 'n2' }));
      await boots().setAddress('2', '10.77.0.12', '52:54:00:00:00:03');
      await boots().end('2', 'failed', NOW);
      expect(await boots().openAt('10.77.0.12')).toBeUndefined();
      expect((await boots().get('1'))?.ip).toBeUndefined();
    });

    it('knows the newest that DHCP said of the machine', async () => {
      expect((await boots().start(newBoot('1'))).machine).toBeUndefined();
      await boots().setMachine('1', { arch: 'arm64', firmware: 'uefi' });
      await boots().setMachine('1', { arch: 'amd64', firmware: 'bios', features: ['http'] });
      expect((await boots().get('1'))?.machine).toEqual({ arch: 'amd64', firmware: 'bios', features: ['http'] });
    });

    it('ends a boot once; a later end changes nothing', async () => {
      await boots().start(newBoot('1'));
      await boots().end('1', 'failed', NOW + 1, 'step 30-k0s: no disk');
      await boots().end('1', 'ready', NOW + 2);
      expect(await boots().get('1')).toMatchObject({ state: 'failed', endedAt: NOW + 1, why: 'step 30-k0s: no disk' });
      expect(await boots().open('n1')).toBeUndefined();
      expect(await boots().history('n1')).toEqual({ failedInRow: 1, lastFailedAt: NOW + 1, lastFailure: { why: 'step 30-k0s: no disk' } });
    });

    it('counts failures in a row, also of boots that a new one ended after their kernel, and ready starts again at none', async () => {
      expect(await boots().history('n1')).toEqual({ failedInRow: 0 });
      await boots().start(newBoot('1'));
      await fix('1');
      await boots().see('1', { name: 'script', state: 'ok', at: NOW });
      await boots().see('1', { name: 'kernel', state: 'ok', at: NOW });
      await boots().start(newBoot('2', { startedAt: NOW + 10 }));
      expect(await boots().get('1')).toMatchObject({ state: 'failed', endedAt: NOW + 10, why: 'the machine started over: boot 2' });
      await boots().end('2', 'failed', NOW + 20);
      expect(await boots().history('n1')).toEqual({ failedInRow: 2, lastFailedAt: NOW + 20, lastFailure: { bootSet: digest } });
      await boots().start(newBoot('3', { startedAt: NOW + 30 }));
      await fix('3');
      await boots().end('3', 'ready', NOW + 40);
      expect(await boots().history('n1')).toEqual({ failedInRow: 0, running: digest, lastGood: digest });
    });

    it('ends a boot that a new one follows before its kernel as unfinished, which is no failure, whatever was asked for in its name', async () => {
      for (const id of ['1', '2', '3']) {
        await boots().start(newBoot(id));
        if (id !== '1') await fix(id);
        for (const name of ['discover', 'offer', 'lease', 'loader'] as const) await boots().see(id, { name, state: 'ok', at: NOW });
        if (id === '3') await boots().see(id, { name: 'script', state: 'ok', at: NOW });
      }
      await boots().start(newBoot('4', { startedAt: NOW + 1 }));
      for (const [id, next] of [['1', '2'], ['2', '3'], ['3', '4']]) expect(await boots().get(id!)).toMatchObject({ state: 'unfinished', why: `the machine started over: boot ${next}` });
      expect((await boots().get('3'))?.endedAt).toBe(NOW + 1);
      expect(await boots().history('n1')).toEqual({ failedInRow: 0 });
      // Its kernel came from another server, where nobody sees it; but it has run.
      await boots().enrol('4', 'hash', NOW + 2);
      await boots().start(newBoot('5', { startedAt: NOW + 3 }));
      expect(await boots().get('4')).toMatchObject({ state: 'failed' });
      expect(await boots().history('n1')).toEqual({ failedInRow: 1, lastFailedAt: NOW + 3, lastFailure: { why: 'the machine started over: boot 5' } });
    });

    it('says what failed last and at which stage, and counts anew when another boot set fails', async () => {
      for (const [index, what] of ['quiet', 'quiet', 'other', 'none', 'other'].entries()) {
        const id = String(index);
        await boots().start(newBoot(id, { startedAt: NOW + index }));
        if (what !== 'none') await fix(id, bootSetWith(what));
        await boots().see(id, { name: 'root', state: 'failed', at: NOW + index });
        await boots().see(id, { name: 'failed', state: 'failed', at: NOW + index });
        await boots().end(id, 'failed', NOW + index, `reason ${id}`);
        const bootSet = digestOfValue(bootSetWith(index < 2 ? 'quiet' : 'other'));
        expect(await boots().history('n1')).toEqual({ failedInRow: [1, 2, 1, 2, 3][index], lastFailedAt: NOW + index, lastFailure: { bootSet, stage: 'root', why: `reason ${id}` } });
      }
    });

    it('notes a hold once, until the node is released, gets ready or fails with another boot set', async () => {
      const fail = async (id: string, what: string): Promise<void> => {
        await boots().start(newBoot(id));
        await fix(id, bootSetWith(what));
        await boots().end(id, 'failed', NOW);
      };
      expect(await boots().hold('n1', NOW)).toBe(false);
      await fail('1', 'quiet');
      expect([await boots().hold('n1', NOW), await boots().hold('n1', NOW + 1)]).toEqual([true, false]);
      // Also while a boot is open, whose node is kept in memory.
      await boots().start(newBoot('2'));
      expect(await boots().history('n1')).toMatchObject({ failedInRow: 1, heldAt: NOW });
      expect([...(await boots().failing(1)).keys(), ...(await boots().failing(2)).keys()]).toEqual(['n1']);
      expect(await boots().running()).toEqual(new Map());
      await boots().release('n1');
      expect(await boots().history('n1')).toEqual({ failedInRow: 0 });
      await fail('3', 'quiet');
      expect(await boots().hold('n1', NOW)).toBe(true);
      await fail('4', 'other');
      expect((await boots().history('n1')).heldAt).toBeUndefined();
      expect(await boots().hold('n1', NOW)).toBe(true);
      await boots().start(newBoot('5'));
      await boots().end('5', 'ready', NOW);
      expect(await boots().history('n1')).toEqual({ failedInRow: 0 });
    });

    it('keeps what was said of the next start, and changes it with the end of a boot that says so', async () => {
      await boots().say('n1', 'boot-once');
      await boots().start(newBoot('1'));
      expect(await boots().history('n1')).toEqual({ failedInRow: 0, next: 'boot-once' });
      expect(await boots().end('1', 'ready', NOW + 5, undefined, 'local')).toBe('said');
      expect(await boots().history('n1')).toEqual({ failedInRow: 0, next: 'local' });
      expect(await boots().end('1', 'ready', NOW + 6, undefined, 'netboot')).toBe(false);
      await boots().release('n1');
      expect((await boots().history('n1')).next).toBe('local');
      await boots().say('n1', undefined);
      expect(await boots().history('n1')).toEqual({ failedInRow: 0 });
    });

    it('knows after which boot it was said: the open one that had its boot set, whose end changes nothing of it', async () => {
      await boots().start(newBoot('1'));
      await boots().say('n1', 'netboot');
      expect((await boots().history('n1')).nextAfter).toBeUndefined();
      await fix('1');
      await boots().say('n1', 'boot-once');
      expect(await boots().history('n1')).toMatchObject({ next: 'boot-once', nextAfter: '1' });
      expect(await boots().end('1', 'ready', NOW, undefined, 'local')).toBe('ended');
      expect(await boots().history('n1')).toMatchObject({ next: 'boot-once', nextAfter: '1' });
      await boots().start(newBoot('2'));
      await fix('2');
      await boots().end('2', 'ready', NOW, undefined, 'local');
      expect(await boots().history('n1')).toEqual({ failedInRow: 0, running: digest, lastGood: digest, next: 'local' });
      // A word that is taken back says the same of the boot that ran then.
      await boots().start(newBoot('3'));
      await fix('3');
      await boots().say('n1', undefined);
      expect(await boots().history('n1')).toMatchObject({ nextAfter: '3' });
      expect((await boots().history('n1')).next).toBeUndefined();
    });

    it('keeps the last good boot set apart from the running one', async () => {
      await boots().start(newBoot('1'));
      await fix('1');
      await boots().end('1', 'ready', NOW + 1);
      await boots().start(newBoot('2', { startedAt: NOW + 2 }));
      expect(await boots().history('n1')).toEqual({ failedInRow: 0, running: digest, lastGood: digest });
      await fix('2', bootSetWith('other'));
      expect(await boots().history('n1')).toEqual({ failedInRow: 0, lastGood: digest });
      await boots().end('2', 'failed', NOW + 3);
      expect(await boots().history('n1')).toMatchObject({ failedInRow: 1, lastGood: digest });
    });

    it('names every boot set that is in use, once, and no other', async () => {
      await boots().start(newBoot('1'));
      await fix('1');
      await boots().end('1', 'ready', NOW + 1);
      await boots().start(newBoot('2', { startedAt: NOW + 2 }));
      await fix('2', bootSetWith('second'));
      await boots().end('2', 'failed', NOW + 3);
      await boots().start(newBoot('3', { startedAt: NOW + 4 }));
      await fix('3', bootSetWith('third'));
      const used = await boots().bootSetsInUse();
      expect(used.map((bootSet) => bootSet.cmdline[0]).sort()).toEqual(['quiet', 'third']);
    });

    it('lists the newest first, of one node or of all', async () => {
      for (const [index, id] of ['1', '2', '3'].entries()) await boots().start(newBoot(id, { startedAt: NOW + index }));
      await boots().start(newBoot('4', { node: 'n2', mac: B, startedAt: NOW + 1 }));
      expect((await boots().list({ node: 'n1', limit: 2 })).map((boot) => boot.id)).toEqual(['3', '2']);
      expect((await boots().list({ limit: 9 })).map((boot) => boot.id)).toEqual(['3', '4', '2', '1']);
    });

    it('prunes old boots with their stages, but no open one, no last ready one and no boot set in use', async () => {
      await boots().start(newBoot('1'));
      await fix('1');
      await boots().see('1', { name: 'script', state: 'ok', at: NOW });
      await boots().end('1', 'ready', NOW);
      for (const [index, id] of ['2', '3', '4'].entries()) {
        await boots().start(newBoot(id, { startedAt: NOW + 1 + index }));
        if (id === '2') await fix('2', bootSetWith('second'));
      }
      await boots().end('4', 'failed', NOW + 9);
      await boots().start(newBoot('5', { startedAt: NOW + 10 }));
      expect(await boots().prune(2)).toBe(2);
      expect((await boots().list({ limit: 9 })).map((boot) => boot.id)).toEqual(['5', '4', '1']);
      expect((await boots().get('1'))?.stages).toHaveLength(1);
      expect(await boots().bootSet(digest)).toEqual(set);
      expect(await boots().bootSet(digestOfValue(bootSetWith('second')))).toBeUndefined();
      expect(await boots().history('n1')).toMatchObject({ failedInRow: 1, lastGood: digest });
    });
  });
}

/** `{ n1: ['p', [mac]] }` as a generation. */
function generationOf(letter: string, nodes: Record<string, readonly [profile: string, macs: readonly string[]]>): Generation {
  return {
    id: DIGEST(letter), profiles: {}, bootSets: {}, nodeByIp: {},
    nodes: Object.fromEntries(Object.entries(nodes).map(([name, [profile, macs]]) => [name, { name, macs, labels: {}, vars: {}, exit: 'exit', profile, source: 'yaml' }])),
    nodeByMac: Object.fromEntries(Object.entries(nodes).flatMap(([name, [, macs]]) => macs.map((mac) => [mac, name]))),
  };
}

export function nodeStoreSuite(open: OpenStores): void {
  withStores('a node store', open, (stores, replace) => {
    const assign = (generation: Generation, who = 'yaml', at = NOW) => stores().nodes.assign(generation, who, at);

    it('writes a row for each MAC of a first generation and none when nothing changed', async () => {
      const first = generationOf('a', { n1: ['p', [A, B]] });
      expect(await assign(first)).toEqual([
        { node: 'n1', mac: A, profile: 'p', who: 'yaml', at: NOW, generation: DIGEST('a') },
        { node: 'n1', mac: B, profile: 'p', who: 'yaml', at: NOW, generation: DIGEST('a') },
      ]);
      expect(await assign(generationOf('b', { n1: ['p', [A, B]] }), 'yaml', NOW + 1)).toEqual([]);
    });

    it('tells who moved a node to another profile, when, and by which generation, also after a restart', async () => {
      await assign(generationOf('a', { n1: ['p', [A]], n2: ['p', [B]] }));
      await assign(generationOf('b', { n1: ['q', [A]], n2: ['p', [B]] }), 'alice', NOW + 1);
      replace(await stores().reopen());
      expect(await stores().nodes.history('n1')).toEqual([
        { node: 'n1', mac: A, profile: 'q', who: 'alice', at: NOW + 1, generation: DIGEST('b') },
        { node: 'n1', mac: A, profile: 'p', who: 'yaml', at: NOW, generation: DIGEST('a') },
      ]);
      expect(await stores().nodes.history('n2')).toHaveLength(1);
    });

    it('ends the mapping of a MAC that is gone', async () => {
      await assign(generationOf('a', { n1: ['p', [A]] }));
      expect(await assign(generationOf('b', {}), 'yaml', NOW + 1)).toMatchObject([{ node: 'n1', mac: A, profile: null }]);
    });

    it('ends it at one node and begins it at the other when a MAC moves', async () => {
      await assign(generationOf('a', { n1: ['p', [A]] }));
      expect(await assign(generationOf('b', { n2: ['p', [A]] }))).toMatchObject([{ node: 'n1', mac: A, profile: null }, { node: 'n2', mac: A, profile: 'p' }]);
      expect(await stores().nodes.history('n2')).toHaveLength(1);
    });

    it('writes nothing at all of a generation with one MAC on two nodes', async () => {
      await assign(generationOf('a', { n1: ['p', [A]] }));
      await expect(assign(generationOf('b', { n1: ['q', [A]], n2: ['q', [A]] }))).rejects.toThrow();
      expect(await stores().nodes.history('n1')).toHaveLength(1);
      expect(await stores().nodes.generation()).toEqual({ id: DIGEST('a'), at: NOW });
    });

    it('knows the last generation with its content, and since when', async () => {
      expect(await stores().nodes.generation()).toBeUndefined();
      expect(await stores().nodes.lastGeneration()).toBeUndefined();
      const [a, b] = [generationOf('a', { n1: ['p', [A]] }), generationOf('b', {})];
      for (const [index, generation] of [a, b, a, a].entries()) await assign(generation, 'yaml', NOW + index);
      replace(await stores().reopen());
      expect(await stores().nodes.generation()).toEqual({ id: a.id, at: NOW + 2 });
      expect(await stores().nodes.lastGeneration()).toEqual({ generation: a });
    });

    it('knows each generation with what it changed, newest first', async () => {
      const [a, b] = [generationOf('a', { n1: ['p', [A]] }), generationOf('b', {})];
      for (const [index, generation] of [a, a, b, a].entries()) await assign(generation, 'yaml', NOW + index);
      replace(await stores().reopen());
      const past = await stores().nodes.generations();
      expect(past.map(({ id, at, changes }) => [id, at - NOW, changes?.added, changes?.removed])).toEqual([[a.id, 3, ['n1'], []], [b.id, 2, [], ['n1']], [a.id, 0, ['n1'], []]]);
      expect(await stores().nodes.generations(1)).toEqual(past.slice(0, 1));
    });

    it('remembers what a machine said of itself, each word until another one comes', async () => {
      await stores().nodes.see('n1', { vendorClass: 'PXEClient:Arch:00000:UNDI:002001', arch: 'amd64', at: NOW });
      await stores().nodes.see('n1', { manufacturer: 'HP', product: 'ProLiant DL380p Gen8', at: NOW + 1 });
      await stores().nodes.see('n1', { arch: 'i386', at: NOW + 2 });
      expect(await stores().nodes.seen('n1')).toEqual({ vendorClass: 'PXEClient:Arch:00000:UNDI:002001', arch: 'i386', manufacturer: 'HP', product: 'ProLiant DL380p Gen8', firstAt: NOW, at: NOW + 2 });
    });

    it('remembers UUID and serial number of a machine, and when it was first seen', async () => {
      expect(await stores().nodes.seen('n1')).toBeUndefined();
      await stores().nodes.see('n1', { uuid: 'u-1', at: NOW });
      await stores().nodes.see('n1', { serial: 's-1', at: NOW + 5 });
      expect(await stores().nodes.seen('n1')).toEqual({ uuid: 'u-1', serial: 's-1', firstAt: NOW, at: NOW + 5 });
    });
  });
}

export function artifactStoreSuite(open: OpenStores): void {
  withStores('an artifact store', open, (stores, replace) => {
    const k0s = { name: 'k0s', version: 'v1+k0s.0', digest: DIGEST('1'), size: 5, addedAt: NOW };

    it('keeps what a version is, over a restart', async () => {
      await stores().artifacts.add(k0s);
      replace(await stores().reopen());
      expect(await stores().artifacts.get('k0s', 'v1+k0s.0')).toEqual(k0s);
      expect(await stores().artifacts.get('k0s', 'v2')).toBeUndefined();
    });

    it('takes the same content again without a change and refuses other content', async () => {
      await stores().artifacts.add(k0s);
      await stores().artifacts.add({ ...k0s, addedAt: NOW + 1 });
      await expect(stores().artifacts.add({ ...k0s, digest: DIGEST('2') })).rejects.toMatchObject({ code: 'ARTIFACT_INVALID' });
      expect(await stores().artifacts.list()).toEqual([k0s]);
    });
  });
}

export function eventStoreSuite(open: OpenStores): void {
  withStores('an event store', open, (stores) => {
    it('lists the newest first, of a node or of a boot', async () => {
      await stores().events.add({ at: NOW, kind: 'enrolment-replayed', node: 'n1', boot: '1', detail: { ip: '10.77.0.11' } });
      await stores().events.add({ at: NOW + 1, kind: 'other' });
      await stores().events.add({ at: NOW + 2, kind: 'third', node: 'n1' });
      const list = async (filter: { node?: string; boot?: string; limit?: number }) => (await stores().events.list({ limit: 9, ...filter })).map((event) => event.kind);
      expect(await list({})).toEqual(['third', 'other', 'enrolment-replayed']);
      expect(await list({ node: 'n1' })).toEqual(['third', 'enrolment-replayed']);
      expect(await list({ boot: '1' })).toEqual(['enrolment-replayed']);
      expect(await list({ limit: 1 })).toEqual(['third']);
      expect((await stores().events.list({ boot: '1', limit: 1 }))[0]).toMatchObject({ node: 'n1', boot: '1', at: NOW, detail: { ip: '10.77.0.11' } });
    });

    it('lets the oldest go, so that what machines do cannot fill the disk', async () => {
      await Promise.all(Array.from({ length: EVENTS_KEPT + 5 }, (_, at) => stores().events.add({ at, kind: 'k' })));
      const kept = await stores().events.list({ limit: EVENTS_KEPT * 2 });
      expect(kept).toHaveLength(EVENTS_KEPT);
      expect(kept.at(-1)?.at).toBe(5);
    });
  });
}

export function verdictStoreSuite(open: OpenStores): void {
  withStores('a verdict store', open, (stores, replace) => {
    const verdict = (letter: string, identity: string) => ({ digest: DIGEST(letter), identity, good: true }) as const;

    it('keeps the newest verdict of each blob over a restart, until it is dropped', async () => {
      for (const [letter, identity] of [['a', 'one'], ['b', 'two'], ['a', 'three'], ['c', 'four']] as const) await stores().verdicts.keep(verdict(letter, identity), NOW);
      await stores().verdicts.drop(DIGEST('b'));
      await stores().verdicts.drop(DIGEST('d'));
      replace(await stores().reopen());
      expect([...(await stores().verdicts.all())].sort((x, y) => (x.digest < y.digest ? -1 : 1))).toEqual([verdict('a', 'three'), verdict('c', 'four')]);
    });
  });
}
