// The editor's schemas are those of the code. `-u` goes last: in front of the path it swallows the path and renews everybody's snapshots. Renew the files with: npx vitest run -c test/vitest.config.ts --project unit test/unit/config-schema.test.ts -u
import { existsSync, readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { describe, expect, test } from 'vitest';
import { jsonSchemas } from '../../src/config/json-schema.ts';

const fileOf = (name: string) => fileURLToPath(new URL(`../../docs/schema/${name}`, import.meta.url));

describe('docs/schema', () => {
  test.each(Object.entries(jsonSchemas()))('%s is what the code makes', async (name, text) => {
    expect(existsSync(fileOf(name))).toBe(true);
    await expect(text).toMatchFileSnapshot(fileOf(name));
  });

  test('every key of a boot profile is known to the editor, and none that is not supported yet', () => {
    const schema = JSON.parse(readFileSync(fileOf('boot-profile.schema.json'), 'utf8')) as { properties: object; additionalProperties: boolean };
    expect(Object.keys(schema.properties)).toEqual(['image', 'boot', 'cmdline', 'root', 'postBoot', 'artifacts', 'vars', 'ssh', 'config', 'shell', 'dhcpOptions', 'loader', 'loaders', 'nodes']);
    expect(schema.additionalProperties).toBe(false);
  });

  test('the names of DHCP options are offered wherever some may stand', () => {
    const offered = Object.keys(jsonSchemas()).map((name) => readFileSync(fileOf(name), 'utf8').split('"ntp-servers"').length - 1);
    expect(offered).toEqual([1, 2, 0]);
  });

  test('patterns of texts reach the editor', () => {
    const text = readFileSync(fileOf('boot-profile.schema.json'), 'utf8');
    for (const part of ['"pattern": "^(none|LABEL=', '"format": "ipv4"', '"pattern": "^([a-z0-9][a-z0-9._-]*)']) expect(text).toContain(part);
  });
});
