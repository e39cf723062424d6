// The editor's schemas are those of the code. `-u` goes last: in front of the path it swallows the path and renews everybody's snapshots. Renew the files with: npx vitest run -c test/vitest.config.ts --project unit test/unit/config-schema.test.ts -u
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { basename, dirname, join, relative } from 'node:path';
import { fileURLToPath } from 'node:url';
import { describe, expect, test } from 'vitest';
import { SCHEMAS, schemaCommand } from '../../src/commands/schema.ts';
import { jsonSchemas } from '../../src/config/json-schema.ts';

const ROOT = fileURLToPath(new URL('../../', import.meta.url));
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
    expect(offered).toEqual([1, 2, 0, 0]);
  });

  test('the command prints each of them', () => {
    for (const [kind, name] of Object.entries(SCHEMAS)) expect(schemaCommand(kind)).toBe(readFileSync(fileOf(name), 'utf8'));
    expect(Object.values(SCHEMAS).sort()).toEqual(Object.keys(jsonSchemas()).sort());
    expect(() => schemaCommand('profil')).toThrow('no schema profil: did you mean profile?');
  });

  /** Every YAML file of ours that an operator may open, and examples; docker-compose.yml is another program's. */
  const SHIPPED_YAML = ['', 'bench', 'boot-profiles', 'docs', 'images', 'packaging', 'post-boot']
    .flatMap((dir) => readdirSync(join(ROOT, dir), { recursive: dir !== '', encoding: 'utf8' }).map((name) => join(dir, name)))
    .filter((file) => /\.ya?ml(\.example)?$/.test(file) && file !== 'docker-compose.yml')
    .sort();

  test('there are YAML files to look at', () => {
    expect(SHIPPED_YAML).toEqual(expect.arrayContaining(['boot-profiles/k0s-single.yaml', 'boot-profiles/rescue.yaml.example', 'images/debian-k0s/image.yaml', 'bench/peers/rackseed.yaml']));
  });

  test.each(SHIPPED_YAML)('%s names the schema of its kind in its first line', (file) => {
    const [first] = readFileSync(join(ROOT, file), 'utf8').split('\n');
    const kind = basename(file) === 'image.yaml' ? 'image' : basename(file).startsWith('quirks.') ? 'quirks' : file.startsWith('boot-profiles/') ? 'profile' : 'settings';
    const [, schema] = /^# yaml-language-server: \$schema=(\S+)$/.exec(first!) ?? [];
    expect(schema && relative(ROOT, join(ROOT, dirname(file), schema))).toBe(`docs/schema/${SCHEMAS[kind]}`);
  });

  test('patterns of texts reach the editor', () => {
    const text = readFileSync(fileOf('boot-profile.schema.json'), 'utf8');
    for (const part of ['"pattern": "^(none|LABEL=', '"format": "ipv4"', '"pattern": "^([a-z0-9][a-z0-9._-]*)']) expect(text).toContain(part);
  });
});
