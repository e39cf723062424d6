// A small world for tests of the rules: one generation with a few nodes, and boots in every situation.
import type { Generation, BootSet } from '../../src/boot/profile.ts';
import type { Node } from '../../src/boot/node.ts';
import type { Boot, Stage, StageName } from '../../src/boot/timeline.ts';
import { digestOfBytes, digestOfValue } from '../../src/digest.ts';

export const NOW = 1_700_000_000_000;

export const bootSet: BootSet = {
  image: {
    name: 'debian-k0s',
    digest: digestOfBytes('image'),
    arch: 'amd64',
    kernel: { digest: digestOfBytes('kernel'), size: 6 },
    initrds: [{ digest: digestOfBytes('initrd'), size: 6 }],
    squashfs: { digest: digestOfBytes('squashfs'), size: 8 },
  },
  cmdline: ['console=ttyS0'],
  root: { state: 'none' },
  postBoot: { repo: 'post-boot', commit: 'c'.repeat(40), steps: 'k0s-single' },
  artifacts: { k0s: { version: 'v1', digest: digestOfBytes('k0s'), size: 3 } },
  vars: { zone: 'a' },
};
export const bootSetDigest = digestOfValue(bootSet);

export function nodeNamed(name: string, more: Partial<Node> = {}): Node {
  return { name, macs: ['52:54:00:00:00:01'], ip: '10.77.0.11', labels: {}, vars: {}, exit: 'exit', profile: 'k0s-single', source: 'yaml', ...more };
}

export function generationOf(...nodes: readonly Node[]): Generation {
  return {
    id: digestOfValue(nodes),
    profiles: { 'k0s-single': { name: 'k0s-single', bootSet: bootSetDigest }, disk: { name: 'disk' } },
    bootSets: { [bootSetDigest]: bootSet },
    nodes: Object.fromEntries(nodes.map((node) => [node.name, node])),
    nodeByMac: Object.fromEntries(nodes.flatMap((node) => node.macs.map((mac) => [mac, node.name]))),
    nodeByIp: Object.fromEntries(nodes.flatMap((node) => (node.ip ? [[node.ip, node.name]] : []))),
  };
}

export function bootWith(stages: readonly StageName[], more: Partial<Boot> = {}): Boot {
  return {
    id: '01HF0000000000000000000000',
    node: 'n1',
    mac: '52:54:00:00:00:01',
    state: 'open',
    startedAt: NOW - 5_000,
    profile: 'k0s-single',
    generation: digestOfBytes('generation'),
    stages: stages.map((name): Stage => ({ name, state: 'ok', firstAt: NOW - 4_000, lastAt: NOW - 4_000, count: 1, detail: {} })),
    ...more,
  };
}
