// boot-profiles/quirks.yaml: what it becomes in a generation, every fault at its place, and the tables of docs/HARDWARE.md.
import { readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { LOADER_CHOICES } from '../../src/boot/loader.ts';
import { jsonSchemas } from '../../src/config/json-schema.ts';
import { compile } from '../../src/config/profiles.ts';
import { readQuirks } from '../../src/config/quirks.ts';
import { formatFault } from '../../src/errors.ts';
import { knownResolver } from './known-resolver.ts';

const page = readFileSync(new URL('../../docs/HARDWARE.md', import.meta.url), 'utf8').split(/^## Quirks$/m)[1]!.split(/^## /m)[0]!;
const PROFILE = { file: 'p/disk.yaml', text: 'boot: local\nnodes:\n  n1: { macs: ["52:54:00:00:00:01"], exit: sanboot }\n  n2: { macs: ["52:54:00:00:00:02"] }\n' };
const file = (text: string) => ({ file: 'p/quirks.yaml', text });
const faults = (text: string) => readQuirks([file(text)]).faults.map(formatFault);
const one = (match: string, send = '{ exit: sanboot }') => `quirks:\n  - name: a\n    match: ${match}\n    send: ${send}\n`;

describe('the file', () => {
  it('of the docs is taken as it stands', () => {
    const [, yaml] = /```yaml\n([\s\S]*?)```/.exec(page)!;
    expect(readQuirks([file(yaml!)])).toEqual({
      faults: [],
      quirks: [
        { name: 'old-nucs', evidence: 'captures/nuc5-2026-03.pcap', match: { manufacturer: 'Intel*', product: 'NUC5*' }, send: { exit: 'EFI/debian/shimx64.efi', blksize: 1024 } },
        { name: 'no-virtualbox-quirk', match: { mac: '08:00:27' }, send: { loader: 'auto' } },
      ],
    });
  });

  it('is part of the generation, and no profile', async () => {
    const [without, empty, withIt] = await Promise.all([[PROFILE], [PROFILE, file('quirks: []\n')], [PROFILE, file(one('{ mac: 08-00-27 }', '{ option43: 06-01-08 }'))]].map((files) => compile(files, knownResolver)));
    expect(withIt!.faults).toEqual([]);
    expect(Object.keys(withIt!.generation!.profiles)).toEqual(['disk']);
    expect(withIt!.generation!.quirks).toEqual([{ name: 'a', match: { mac: '08:00:27' }, send: { option43: '06:01:08' } }]);
    expect(withIt!.generation!.id).not.toBe(without!.generation!.id);
    expect(empty!.generation).toEqual(without!.generation);
  });

  it('keeps the whole generation back when it is wrong', async () => {
    const { generation, faults: found } = await compile([PROFILE, file(one('{ mac: x }'))], knownResolver);
    expect([generation, found.map(formatFault)]).toEqual([undefined, ['p/quirks.yaml:3:19: quirks.0.match.mac: not the start of a MAC address, such as 08:00:27']]);
  });

  it('is one', () => {
    expect(readQuirks([file('quirks: []\n'), { file: 'p/quirks.yml', text: 'quirks: []\n' }]).faults.map(formatFault)).toEqual(['p/quirks.yml:1:1: quirks stand in p/quirks.yaml already']);
  });

  it('may be empty', () => expect(readQuirks([file('# none yet\n')])).toEqual({ quirks: [], faults: [] }));
});

it('a node has an exit method or a loader of its own only when it is written, `auto` too', async () => {
  const text = 'image: debian-k0s\nnodes:\n  n1: { macs: ["52:54:00:00:00:01"], exit: exit }\n  n2: { macs: ["52:54:00:00:00:02"], loader: auto }\n  n3: { macs: ["52:54:00:00:00:03"] }\n';
  const { generation } = await compile([{ file: 'p/a.yaml', text }], knownResolver);
  const { n1, n2, n3 } = generation!.nodes;
  expect([n1!.exit, n1!.loader, n2!.exit, n2!.loader, n3!.exit, n3!.loader]).toEqual(['exit', undefined, undefined, 'auto', undefined, undefined]);
});

describe('a fault', () => {
  it.each([
    ['an unknown key', one('{ mca: 08:00:27 }'), 'p/quirks.yaml:3:14: unknown key mca (did you mean mac?)'],
    ['an unknown thing to send', one('{ mac: 08:00:27 }', '{ blksiez: 512 }'), 'p/quirks.yaml:4:13: unknown key blksiez (did you mean blksize?)'],
    ['nothing to match', one('{}'), 'p/quirks.yaml:3:12: quirks.0.match: needs at least one of vendorClass, arch, mac, manufacturer, product'],
    ['nothing to send', one('{ mac: 08 }', '{}'), 'p/quirks.yaml:4:11: quirks.0.send: needs at least one of proxyStyle, option43, blksize, exit, loader'],
    ['what fits everything', one('{ product: "*" }'), 'p/quirks.yaml:3:23: quirks.0.match.product: fits everything'],
    ['what fits everything with more stars', one('{ vendorClass: "**" }'), 'p/quirks.yaml:3:27: quirks.0.match.vendorClass: fits everything'],
    ['a processor that is none', one('{ arch: x86 }'), 'p/quirks.yaml:3:20: quirks.0.match.arch: must be i386 or amd64 or arm64 or armhf or riscv64, not x86'],
    ['a block that is too small', one('{ mac: 08 }', '{ blksize: 511 }'), 'p/quirks.yaml:4:22: quirks.0.send.blksize: must be 512 to 65464'],
    ['a block that is too large', one('{ mac: 08 }', '{ blksize: 65465 }'), 'p/quirks.yaml:4:22: quirks.0.send.blksize: must be 512 to 65464'],
    ['a loader that goes to no machine by itself', one('{ mac: 08 }', '{ loader: uki }'), `p/quirks.yaml:4:21: quirks.0.send.loader: not a loader of a quirk: ${LOADER_CHOICES.join(', ')}, or a file of the loader set, such as ipxe.efi`],
    ['bytes that are none', one('{ mac: 08 }', '{ option43: 06:1:08 }'), 'p/quirks.yaml:4:23: quirks.0.send.option43: must be auto, none, or bytes in hex, such as 06:01:08'],
    ['an exit that iPXE would read otherwise', one('{ mac: 08 }', '{ exit: "EFI/a b.efi" }'), 'p/quirks.yaml:4:19: quirks.0.send.exit: must be exit, sanboot, or an .efi file of the disk, such as EFI/debian/shimx64.efi'],
    ['a name that stands twice', `${one('{ mac: 08 }')}  - { name: a, match: { mac: "09" }, send: { exit: exit } }\n`, 'p/quirks.yaml:5:13: quirk a stands twice, also at p/quirks.yaml:2:11'],
    ["a shipped one's name", one('{ mac: 08 }').replace('name: a', 'name: virtualbox-bios'), 'p/quirks.yaml:2:11: virtualbox-bios is the name of a shipped quirk (give yours another name; it comes before the shipped ones, and the usual value takes theirs back)'],
    ['a list where a map is wanted', '- name: a\n', 'p/quirks.yaml:1:1: must be a map, such as { key: value }, not a list'],
    ['YAML that is none', 'quirks: [\n', 'p/quirks.yaml:2:1: Flow sequence in block collection must be sufficiently indented and end with a ]'],
  ])('%s', (_name, text, expected) => expect(faults(text)).toEqual([expected]));

  it('of block sizes: those of 512 to 65464 have none', () => {
    const taken = (size: number) => faults(one('{ mac: 08 }', `{ blksize: ${size} }`)).length === 0;
    const edges = [512, 520, 600, 1_000, 2_000, 9_999, 10_000, 59_999, 60_000, 64_999, 65_000, 65_400, 65_464, 65_500, 66_000, 99_999, 100_000];
    for (const size of [1, 8, 51, 99, 100, ...edges.flatMap((edge) => [edge - 1, edge, edge + 1])]) expect([size, taken(size)]).toEqual([size, size >= 512 && size <= 65_464]);
  });
});

it('docs/HARDWARE.md has a row for each member of match and of send, and for no other', () => {
  const { properties } = JSON.parse(jsonSchemas()['quirks.schema.json']!) as { properties: { quirks: { items: { properties: Record<'match' | 'send', { properties: object }> } } } };
  const rowsOf = (title: string) => page.split(`| \`${title}\` |`)[1]!.split('\n\n')[0]!.split('\n').slice(2).flatMap((row) => [...row.split(' | ')[0]!.matchAll(/`([^`]+)`/g)].map(([, key]) => key));
  for (const title of ['match', 'send'] as const) expect(rowsOf(title)).toEqual(Object.keys(properties.quirks.items.properties[title].properties));
});
