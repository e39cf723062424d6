// Several cards at once, each in its own mode, with the default route on yet another one; cards that go down, lose their address, or belong to somebody else.
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import { ipOf, messageOf, OPT, text, textOf, uint16s } from '../../src/dhcp/options.ts';
import { encode, NO_IP } from '../../src/dhcp/packet.ts';
import { eventually, ip, openLink, startLan, watchOutput, type Lan, type Link, type Output } from './lan.ts';
import { machineOn, openSegment, type Option, type Segment } from './segment.ts';

const ROM: readonly Option[] = [[OPT.vendorClass, text('PXEClient:Arch:00000:UNDI:002001')], [OPT.clientArch, uint16s(0)]];
const EACH = 20;
const macOf = (n: number): string => `52:54:00:77:00:${n.toString(16).padStart(2, '0')}`;
const CARDS = [['lan0', '10.77.0.1'], ['lan1', '10.78.0.1'], ['lan2', '10.79.0.1'], ['lan3', '10.80.0.1'], ['wan0', '192.168.5.2']] as const;
const full = (net: string, more: object = {}) => ({ subnet: `${net}.0/24`, mode: 'full', router: `${net}.254`, pool: `${net}.100-${net}.199`, leaseTime: '1h', conflictCheck: 'off', ...more });

let links: Link[];
let segments: Segment[];
let lan: Lan | undefined;
let outputs: Output[];

beforeAll(async () => {
  [links, segments, outputs] = [[], [], []];
  for (const [name, address] of CARDS) {
    links.push(await openLink(name, `${address}/24`));
    segments.push(await openSegment(links.at(-1)!.ns, 'eth0'));
  }
  ip('route', 'add', 'default', 'via', '192.168.5.1');
});

afterAll(async () => {
  for (const segment of segments) await segment.close();
  for (const link of links) await link.close();
});

afterEach(async () => {
  for (const output of outputs.splice(0)) output.close();
  await lan?.stop();
  lan = undefined;
});

const watchAll = () => (outputs = CARDS.map(([name]) => watchOutput(name)));

describe('several cards at once', () => {
  it(`${4 * EACH} machines on four cards in three modes: each is answered as its own card says, and by that card`, async () => {
    const nodes = Object.fromEntries(Array.from({ length: 4 * EACH }, (_, n) => [`n${n}`, { macs: [macOf(n)] }]));
    lan = await startLan({
      nodes,
      dhcp: {
        onConflict: 'ignore',
        interfaces: [{ name: 'lan2', mode: 'proxy' }, { name: 'lan3', mode: 'off' }],
        subnets: [full('10.77.0'), full('10.78.0')],
      },
    });
    const [first, second, third, , office] = watchAll();
    const machines = Array.from({ length: 4 * EACH }, (_, n) => ({ card: n % 4, machine: machineOn(segments[n % 4]!, macOf(n), ROM) }));
    const got = await Promise.all(
      machines.map(async ({ card, machine }) => {
        if (card < 2) return { card, packet: (await machine.dora()).ack };
        // Beside another server, and not at all.
        return { card, packet: await machine.discover(card === 2 ? 15_000 : 3_000) };
      }),
    );
    const of = (card: number) => got.filter((one) => one.card === card).map(({ packet }) => packet);
    for (const [card, net] of [[0, '10.77.0'], [1, '10.78.0']] as const) {
      const addresses = of(card).map((ack) => ack!.yiaddr);
      expect(new Set(addresses).size).toBe(EACH);
      for (const ack of of(card)) expect([ack!.yiaddr.startsWith(`${net}.1`), ipOf(ack!.options, OPT.serverId), ipOf(ack!.options, OPT.router), ack!.siaddr]).toEqual([true, `${net}.1`, `${net}.254`, `${net}.1`]);
    }
    for (const offer of of(2)) expect([offer!.yiaddr, offer!.siaddr, ipOf(offer!.options, OPT.serverId), offer!.file]).toEqual([NO_IP, '10.79.0.1', '10.79.0.1', 'undionly.kpxe']);
    expect(of(3)).toEqual(Array.from({ length: EACH }, () => undefined));
    expect(first!.left()).toEqual([`${2 * EACH} from 10.77.0.1:67 to 255.255.255.255:68`]);
    expect(second!.left()).toEqual([`${2 * EACH} from 10.78.0.1:67 to 255.255.255.255:68`]);
    expect(third!.left()).toEqual([`${EACH} from 10.79.0.1:67 to 255.255.255.255:68`]);
    expect([outputs[3]!.left(), office!.left()]).toEqual([[], []]);
  });

  it('the URL that a machine is given is there, on each card', async () => {
    lan = await startLan({ nodes: { n0: { macs: [macOf(0)] }, n1: { macs: [macOf(1)] } }, dhcp: { onConflict: 'ignore', subnets: [full('10.77.0'), full('10.78.0')] } });
    const ipxe: readonly Option[] = [...ROM, [OPT.userClass, text('iPXE')], [OPT.ipxe, Uint8Array.of(19, 1, 1, 24, 1, 1)]];
    for (const n of [0, 1]) {
      const { ack } = await machineOn(segments[n]!, macOf(n), ipxe).dora();
      const url = textOf(ack.options, OPT.bootFile)!;
      expect(url).toBe(`http://10.7${7 + n}.0.1:8080/script/${macOf(n).replaceAll(':', '-')}`);
      segments[n]!.disown(ack.yiaddr);
      const { ns } = links[n]!;
      await ns.must(['ip', 'address', 'add', `${ack.yiaddr}/24`, 'dev', 'eth0']);
      expect(await ns.must(['curl', '-sSf', '--max-time', '20', url])).toMatch(/#!ipxe[^]*kernel/);
      await ns.must(['ip', 'address', 'flush', 'dev', 'eth0']);
    }
  });

  it('a machine that is carried to another card gets an address there, and keeps the lease of neither card from others', async () => {
    lan = await startLan({ nodes: { n0: { macs: [macOf(0)], ip: '10.77.0.11' }, n1: { macs: [macOf(1)] } }, dhcp: { onConflict: 'ignore', subnets: [full('10.77.0'), full('10.78.0', { pool: '10.78.0.100-10.78.0.101' })] } });
    expect((await machineOn(segments[0]!, macOf(0)).dora()).ack.yiaddr).toBe('10.77.0.11');
    expect((await machineOn(segments[1]!, macOf(0)).dora()).ack.yiaddr).toBe('10.78.0.100');
    expect((await machineOn(segments[1]!, macOf(1)).dora()).ack.yiaddr).toBe('10.78.0.101');
    expect((await machineOn(segments[0]!, macOf(0)).dora()).ack.yiaddr).toBe('10.77.0.11');
    const held = await lan.stored(({ leases }) => leases.list());
    expect(held.map(({ ip: address, holder }) => `${holder} ${address}`).sort()).toEqual(['n0 10.77.0.11', 'n0 10.78.0.100', 'n1 10.78.0.101']);
  });
});

describe('a card that changes under us', () => {
  it('goes down and comes up: the next machine is served, without a restart', async () => {
    lan = await startLan({ nodes: { n0: { macs: [macOf(0)] }, n1: { macs: [macOf(1)] } }, dhcp: { onConflict: 'ignore', subnets: [full('10.77.0'), full('10.78.0')] } });
    await machineOn(segments[0]!, macOf(0)).dora();
    ip('link', 'set', 'lan0', 'down');
    // The other card goes on.
    await machineOn(segments[1]!, macOf(1)).dora();
    ip('link', 'set', 'lan0', 'up');
    ip('route', 'replace', 'default', 'via', '192.168.5.1');
    expect((await machineOn(segments[0]!, macOf(0)).dora()).ack.yiaddr).toBe('10.77.0.100');
    expect((await lan.counters())['failed']).toBe(0);
  });

  it('loses its address and gets it back: the next machine is served, without a restart', async () => {
    lan = await startLan({ nodes: { n0: { macs: [macOf(0)] } }, dhcp: { onConflict: 'ignore', subnets: [full('10.77.0')] } });
    await machineOn(segments[0]!, macOf(0)).dora();
    ip('address', 'del', '10.77.0.1/24', 'dev', 'lan0');
    const machine = machineOn(segments[0]!, macOf(0));
    segments[0]!.send(macOf(0), encode(machine.packet('discover')) as Uint8Array);
    await eventually(() => lan!.heard()).toBe(3);
    ip('address', 'add', '10.77.0.1/24', 'dev', 'lan0');
    const { ack } = await machineOn(segments[0]!, macOf(0)).dora();
    expect([messageOf(ack.options), ack.yiaddr, (await lan.counters())['failed']]).toEqual(['ack', '10.77.0.100', 0]);
  });
});

describe('the card of the default route', () => {
  const subnet = full('192.168.5', { subnet: '192.168.5.0/24' });

  it('is refused in full mode unless it is named, and nothing is bound then', async () => {
    await expect(startLan({ dhcp: { onConflict: 'ignore', subnets: [subnet] } })).rejects.toMatchObject({ code: 'CONFIG_INVALID', message: expect.stringContaining('wan0, the card of this machine\'s default route') as string, hint: expect.stringContaining('interface: wan0') as string });
  });

  it('named, it is served', async () => {
    lan = await startLan({ nodes: { n0: { macs: [macOf(0)] } }, dhcp: { onConflict: 'ignore', subnets: [{ ...subnet, interface: 'wan0' }] } });
    expect((await machineOn(segments[4]!, macOf(0)).dora()).ack.yiaddr).toBe('192.168.5.100');
  });
});
