// What `rackseed render` shows of DHCP against what the responder sends: every machine, both modes, and nodes that boot and that do not.
import { describe, expect, it } from 'vitest';
import { DEBIAN_12_LOADERS } from '../../src/boot/loader.ts';
import { dhcpLines } from '../../src/commands/dhcp-words.ts';
import { asksOf, MACHINES, type MachineKind } from '../../src/commands/render-machines.ts';
import { ips, OPT, text, uint32 } from '../../src/dhcp/options.ts';
import { decode } from '../../src/dhcp/packet.ts';
import { renderNode, type RenderParts } from '../../src/render.ts';
import { bootSet, bootSetDigest, generationOf, nodeNamed, NOW } from './boot-world.ts';
import { startHarness } from './dhcp-harness.ts';
import { MAC, packetWith, subnet } from './dhcp-world.ts';

const KINDS = Object.keys(MACHINES) as MachineKind[];
const IP = '10.77.0.11';
const { pools: _, ...terms } = subnet;
const MODES = { full: subnet, proxy: { ...terms, pools: [], mode: 'proxy' as const } };
const NODES = {
  'that boots': nodeNamed('n1'),
  'with shim, which the set does not have': nodeNamed('n1', { loader: 'shim' }),
  'with a UKI, which its image does not have': nodeNamed('n1', { loader: 'uki' }),
  'that starts from its disk next': nodeNamed('n1', { next: 'local' }),
  'with more options than its firmware takes': nodeNamed('n1', { dhcpOptions: Object.fromEntries(Array.from({ length: 8 }, (_each, at) => [224 + at, { hex: '78'.repeat(240), always: true }])) }),
  'whose profile is its disk': nodeNamed('n1', { profile: 'disk' }),
};

const partsFor = (as: MachineKind, mode: keyof typeof MODES, node: (typeof NODES)[keyof typeof NODES]): RenderParts => ({
  generation: generationOf(node),
  node,
  mac: MAC,
  asks: asksOf(as, MAC, { ip: IP, server: subnet.serverIp }),
  history: { failedInRow: 0 },
  holdAfter: 5,
  seen: {},
  loaders: { loaders: DEBIAN_12_LOADERS },
  subnet: MODES[mode],
  ip: IP,
  httpPort: 8080,
  bootId: '01HF0000000000000000000000',
  now: NOW,
});

describe.each(Object.keys(MODES) as (keyof typeof MODES)[])('in mode %s', (mode) => {
  it.each(Object.entries(NODES))('a node %s is shown what each machine would be sent', async (_what, node) => {
    const harness = await startHarness({ subnets: [MODES[mode]], nodes: [node] });
    try {
      for (const as of KINDS) {
        const { asks } = partsFor(as, mode, node);
        const { dhcp } = renderNode(partsFor(as, mode, node));
        // Another machine's boot: one that is young goes on.
        harness.pass(120_000);
        for (const { what, packet, bytes } of dhcp) {
          const is4011 = what.includes('4011');
          const question = is4011 ? asks.romAt4011! : what.includes('firmware') ? asks.rom! : asks.ipxe;
          const [sent, ...more] = await harness.hear(question, is4011 ? { port: 4011, from: IP, fromPort: 4011 } : {});
          expect(more).toEqual([]);
          expect([as, what, bytes && decode(bytes), bytes?.length]).toEqual([as, what, sent?.packet, sent?.length]);
          expect(packet === undefined).toBe(sent === undefined);
        }
        expect(dhcp.map(({ what }) => what.split(' ')[0])).toContain('OFFER');
      }
    } finally {
      await harness.close();
    }
  });
});

describe('beside another server', () => {
  it('UEFI gets its file at port 4011, and a BIOS in the offer', () => {
    const answers = (as: MachineKind) => renderNode(partsFor(as, 'proxy', NODES['that boots'])).dhcp.map(({ what, packet }) => [what, packet?.file]);
    const script = 'http://10.77.0.1:8080/script/52-54-00-00-00-01';
    expect(answers('uefi')).toEqual([['OFFER to its firmware', ''], ['ACK from port 4011 to its firmware', 'snponly.efi'], ['OFFER to the iPXE that it then runs', script]]);
    expect(answers('bios')).toEqual([['OFFER to its firmware', 'undionly.kpxe'], ['OFFER to the iPXE that it then runs', script]]);
  });
});

it('a UKI is all that its firmware fetches: there is no script, and the initrd stage is told as ever', () => {
  const parts = partsFor('uefi', 'full', nodeNamed('n1', { loader: 'uki' }));
  const image = { ...bootSet.image, uki: { digest: bootSet.image.kernel.digest, size: 9 } };
  const rendered = renderNode({ ...parts, generation: { ...parts.generation, bootSets: { [bootSetDigest]: { ...bootSet, image } } } });
  expect(rendered.dhcp.map(({ what, packet }) => [what, packet?.file])).toEqual([['OFFER to its firmware', '52-54-00-00-00-01/uki.efi']]);
  expect([rendered.script, rendered.config?.slice(0, 8), rendered.facts?.node]).toEqual([undefined, 'node n1\n', 'n1']);
});

describe('what does not boot', () => {
  it.each<[what: string, parts: RenderParts, script: RegExp | undefined]>([
    ['a profile of the disk', partsFor('bios', 'full', NODES['whose profile is its disk']), undefined],
    ["the same to a card's iPXE", partsFor('ipxe', 'full', NODES['whose profile is its disk']), /RS-LOCAL: profile disk boots from disk/],
    ['a node that is held', { ...partsFor('bios', 'full', NODES['that boots']), history: { failedInRow: 5 } }, /RS-HOLD: .*asking again/],
  ])('%s has neither config nor facts', (_what, parts, script) => {
    const rendered = renderNode(parts);
    expect([rendered.config, rendered.facts]).toEqual([undefined, undefined]);
    if (script) expect(rendered.script?.text).toMatch(script);
    else expect(rendered.script).toBeUndefined();
  });
});

it('options are told one a line, by name, and by bytes where the name says nothing', () => {
  const reply = packetWith([[OPT.messageType, Uint8Array.of(2)], [OPT.router, ips('10.0.0.1', '10.0.0.2')], [OPT.leaseTime, uint32(3600)], [OPT.bootFile, text('a"b\n')], [OPT.vendorSpecific, Uint8Array.of(6, 1, 8)], [224, Uint8Array.of(1, 255)], [42, ips('10.0.0.3')]], { op: 2, yiaddr: IP, file: 'x.efi' });
  expect(dhcpLines(reply).map((line) => line.replace(/ +/g, ' ').trim())).toEqual(['yiaddr 10.77.0.11', 'file "x.efi"', '53 message-type offer', '3 router 10.0.0.1 10.0.0.2', '51 lease-time 3600', '67 boot-file "a\\"b\\n"', '43 vendor-specific 06:01:08 (6: 08)', '224 01:ff', '42 ntp 10.0.0.3']);
});
