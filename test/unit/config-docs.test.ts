// docs/SETTINGS.md: a line for every key that rackseed.yaml may have and for no other, and examples that mean what they say.
import { readFileSync } from 'node:fs';
import { describe, expect, test } from 'vitest';
import { formatSubnet } from '../../src/addr.ts';
import { jsonSchemas } from '../../src/config/json-schema.ts';
import { parseSettings } from '../../src/config/settings.ts';
import { resolveLinks, type Card } from '../../src/dhcp/links.ts';
import { parse } from 'yaml';

const docs = readFileSync(new URL('../../docs/SETTINGS.md', import.meta.url), 'utf8');
const yaml = [...docs.matchAll(/^```yaml\n([\s\S]*?)^```$/gm)].map(([, block]) => block!);
const inTable = [...docs.matchAll(/^\| `([^`]+)` \|/gm)].map(([, key]) => key!);

interface Schema {
  readonly properties?: Readonly<Record<string, Schema>>;
  readonly items?: Schema;
  readonly anyOf?: readonly Schema[];
  readonly additionalProperties?: boolean | Schema;
}

/** `dhcp.subnets[].pool`: every key that has no keys below it, and every list of maps. */
function keysOf(schema: Schema, path: string): string[] {
  const map = schema.properties ? schema : schema.anyOf?.find((form) => form.properties);
  if (map?.properties && path !== 'dhcp.subnets[].options') return Object.entries(map.properties).flatMap(([key, below]) => keysOf(below, path === '' ? key : `${path}.${key}`));
  const items = schema.items ? keysOf(schema.items, `${path}[]`) : [];
  if (items.length > 1) return [`${path}[]`, ...items];
  const values = path === 'repos' && typeof schema.additionalProperties === 'object' ? keysOf(schema.additionalProperties, `${path}.<name>`) : [];
  return [path, ...values];
}

test('every key has its line in the table, in the order of the schema', () => {
  expect(inTable).toEqual(keysOf(JSON.parse(jsonSchemas()['rackseed.schema.json']!) as Schema, ''));
});

describe('examples', () => {
  const CARDS: Card[] = [
    { name: 'eth0', addresses: [{ address: '192.168.1.20', prefix: 24 }] },
    { name: 'br0', addresses: [{ address: '10.77.0.1', prefix: 24 }] },
  ];
  test.each([
    ['beside an office DHCP server', 1, ['192.168.1.0/24 proxy 192.168.1.20 eth0 known'], ['eth0 proxy']],
    ['full on a boot LAN', 2, ['10.77.0.0/24 full 10.77.0.1 br0 known'], ['br0 full']],
    ['behind relays', 3, ['10.1.0.0/24 full 192.168.1.20 - known', '10.2.0.0/24 full 192.168.1.20 - known'], ['eth0 off']],
  ])('%s', (_what, index, subnets, links) => {
    const resolved = resolveLinks(parseSettings(yaml[index]!, '/etc/rackseed/rackseed.yaml').dhcp, CARDS, 'eth0');
    if ('fault' in resolved) throw new Error(resolved.fault);
    expect(resolved.subnets.map((one) => `${formatSubnet(one.subnet)} ${one.mode} ${one.serverIp} ${one.link ?? '-'} ${one.serve}`)).toEqual(subnets);
    expect(resolved.links.map(({ name, mode }) => `${name} ${mode}`)).toEqual(links);
  });

  test('of options: each is sent as its number', () => {
    const { options } = parse(yaml[0]!) as { options: unknown };
    const { dhcp } = parseSettings(JSON.stringify({ dhcp: { subnets: [{ subnet: '10.77.0.0/24', options }] } }), '/etc/rackseed/rackseed.yaml');
    expect(Object.keys(dhcp.subnets[0]!.options)).toEqual(['26', '42', '119', '121', '150', '224']);
    expect(yaml).toHaveLength(4);
  });
});
