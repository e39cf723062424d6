// boot-profiles/*.yaml -> one frozen generation, or every fault of every file at once.
import { readdir, readFile } from 'node:fs/promises';
import { basename, join } from 'node:path';
import { isScalar, isSeq } from 'yaml';
import { parseIp4, parseMac, type Ip4, type Mac } from '../addr.ts';
import type { ExitMethod, Node } from '../boot/node.ts';
import type { BootSet, Generation, Profile } from '../boot/profile.ts';
import type { Quirk } from '../boot/quirks.ts';
import type { ExtraOptions } from '../dhcp/option-values.ts';
import { digestOfValue, type Digest } from '../digest.ts';
import { AppError, lineOf, type Fault } from '../errors.ts';
import { claimFaults, entriesOf, isMapping, member, type AddressSpace } from './claims.ts';
import { readYaml, type YamlFile } from './document.ts';
import { knownKeys, nearest, plainWords, zodFaults, type Path } from './faults.ts';
import { readOptions } from './options-map.ts';
import { configFaults } from './profile-access.ts';
import { rootFaults, rootOf } from './profile-root.ts';
import { NOT_YET, profileSchema, type ProfileSpec } from './profile-schema.ts';
import { isQuirksFile, readQuirks } from './quirks.ts';
import { resolveReferences, type References } from './references.ts';
import type { Resolver } from './resolver.ts';

export interface ProfileFile {
  /** As faults shall show it: the directory as it was given, and the name. */
  readonly file: string;
  readonly text: string;
}

interface ParsedProfile {
  readonly name: string;
  readonly yaml: YamlFile;
  readonly dhcpOptions: DhcpOptions;
  /** Absent when the file has faults. */
  readonly spec?: ProfileSpec;
  readonly faults: readonly Fault[];
}

/** Of a profile, and of each of its nodes that has some. */
interface DhcpOptions {
  readonly ofAll: ExtraOptions;
  readonly ofNode: ReadonlyMap<string, ExtraOptions>;
}

const NO_OPTIONS: DhcpOptions = { ofAll: {}, ofNode: new Map() };

/** The kernel's limit on x86 is 2048; the rest is for what the script adds. */
const CMDLINE_MAX = 1500;

/** `*.yaml` and `*.yml`; editors' backups, swap and lock files are none. */
export function isProfileName(name: string): boolean {
  return /^[^.#][^/]*\.ya?ml$/.test(name);
}

/** Every profile of the directory, ordered by name. AppError PROFILES_INVALID when the directory or a file cannot be read. */
export async function readProfiles(dir: string): Promise<ProfileFile[]> {
  try {
    const entries = await readdir(dir, { withFileTypes: true });
    const names = entries.filter((entry) => !entry.isDirectory() && isProfileName(entry.name)).map((entry) => entry.name);
    const files = await Promise.all(names.sort().map((name) => readIfThere(join(dir, name))));
    return files.filter((file) => file !== undefined);
  } catch (error) {
    throw new AppError('PROFILES_INVALID', `${dir}: ${lineOf(error)}`, 'the directory of boot profiles is `profiles` in rackseed.yaml', error);
  }
}

/** A file may be gone between listing and reading; whoever took it away brings the next event. */
async function readIfThere(file: string): Promise<ProfileFile | undefined> {
  try {
    return { file, text: await readFile(file, 'utf8') };
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return undefined;
    throw error;
  }
}

/**
 * Compiles all files into a generation, or tells every fault of every file; never both, never throws. The order of files and keys does
 * not matter. Names, tags and refs are resolved here and nowhere else. Without `subnets` addresses are not held against them; with `elsewhere` those
 * that lie in none of them may be right.
 */
export async function compile(files: readonly ProfileFile[], resolver: Resolver, subnets: readonly AddressSpace[] = [], elsewhere = false): Promise<{ readonly generation?: Generation; readonly faults: readonly Fault[] }> {
  const { parsed, faults } = parseAll(files.filter(({ file }) => !isQuirksFile(file)), subnets, elsewhere);
  const { quirks, faults: wrong } = readQuirks(files.filter(({ file }) => isQuirksFile(file)));
  faults.push(...wrong);
  const resolved: { profile: ParsedProfile; references: References }[] = [];
  for (const profile of parsed) {
    const answer = await resolveReferences(profile.yaml, resolver);
    faults.push(...answer.faults);
    faults.push(...tooLong(profile.yaml, answer.references));
    resolved.push({ profile, references: answer.references });
  }
  if (faults.length > 0) return { faults: inOrder(faults) };
  return { generation: build(resolved.map(({ profile, references }) => ({ name: profile.name, spec: profile.spec!, dhcpOptions: profile.dhcpOptions, references })), quirks), faults: [] };
}

function parseAll(files: readonly ProfileFile[], subnets: readonly AddressSpace[], elsewhere: boolean): { readonly parsed: readonly ParsedProfile[]; readonly faults: Fault[] } {
  const parsed = [...files].sort((a, b) => (a.file < b.file ? -1 : 1)).map(parseProfile);
  const faults = parsed.flatMap((profile) => profile.faults);
  const first = new Map<string, string>();
  for (const { name, yaml } of parsed) {
    const other = first.get(name);
    if (other) faults.push({ file: yaml.file, line: 1, column: 1, message: `profile ${name} is taken, also at ${other}:1:1` });
    else first.set(name, yaml.file);
  }
  faults.push(...claimFaults(parsed.map((profile) => profile.yaml), subnets, elsewhere));
  return { parsed, faults };
}

function parseProfile({ file, text }: ProfileFile): ParsedProfile {
  const name = basename(file).replace(/\.ya?ml$/, '');
  const yaml = readYaml(text, file, { scalars: 'text' });
  const faults = [...yaml.faults];
  if (!/^[a-z0-9][a-z0-9._-]*$/.test(name)) faults.push({ file, line: 1, column: 1, message: `a profile is named after its file, and ${name} is no name: lower-case letters, digits and . _ -` });
  if (yaml.value === undefined) return { name, yaml, dhcpOptions: NO_OPTIONS, faults };
  if (yaml.value !== null && !isMapping(yaml.value)) {
    return { name, yaml, dhcpOptions: NO_OPTIONS, faults: [...faults, { file, ...yaml.place([]), message: 'must be a map of keys, such as image: debian-k0s' }] };
  }
  const content = { ...(yaml.value ?? {}) };
  for (const [key, hint] of Object.entries(NOT_YET)) {
    if (!Object.hasOwn(content, key)) continue;
    delete content[key];
    faults.push({ file, ...yaml.place([key], { key: true }), message: `${key} is not supported yet`, hint });
  }
  const result = profileSchema.safeParse(content, { error: plainWords });
  if (!result.success) faults.push(...zodFaults(result.error, yaml.document, yaml.lines, file, (path) => knownKeys(profileSchema, path)));
  faults.push(...contentFaults(yaml, content));
  const { wrong, ...dhcpOptions } = dhcpOptionsOf(yaml, content);
  faults.push(...wrong);
  return { name, yaml, dhcpOptions, faults, ...(result.success ? { spec: result.data } : {}) };
}

function dhcpOptionsOf(yaml: YamlFile, content: Record<string, unknown>): DhcpOptions & { readonly wrong: readonly Fault[] } {
  const wrong: Fault[] = [];
  const read = (value: unknown, path: Path): ExtraOptions => {
    const { options, faults } = readOptions(isMapping(value) ? value : {}, yaml, path);
    wrong.push(...faults);
    return options;
  };
  const ofAll = read(content['dhcpOptions'], ['dhcpOptions']);
  const ofNode = new Map(entriesOf(content['nodes']).map(([name, node]) => [name, read(member(node, 'dhcpOptions'), ['nodes', name, 'dhcpOptions'])]));
  return { ofAll, ofNode, wrong };
}

/** What a schema of single values cannot say. */
function contentFaults(yaml: YamlFile, content: Record<string, unknown>): Fault[] {
  const { file } = yaml;
  const faults: Fault[] = [];
  if (content['boot'] === 'local') {
    for (const key of ['image', 'cmdline', 'root', 'postBoot', 'artifacts', 'vars', 'ssh', 'config', 'shell', 'loader', 'loaders']) {
      if (content[key] != null) faults.push({ file, ...yaml.place([key], { key: true }), message: `${key} has no meaning with boot: local` });
    }
  } else if (content['image'] === undefined && content['boot'] === undefined && !misspelt(content, ['image', 'boot'])) {
    faults.push({ file, line: 1, column: 1, message: 'image: missing', hint: 'or boot: local, to boot from disk' });
  }
  const entries = member(content, 'cmdline');
  if (Array.isArray(entries) && entries.join(' ').length > CMDLINE_MAX) {
    faults.push({ file, ...yaml.place(['cmdline']), message: `cmdline has ${entries.join(' ').length} characters, at most ${CMDLINE_MAX} fit` });
  }
  return [...faults, ...cutParameters(yaml), ...(content['boot'] === 'local' ? [] : rootFaults(yaml, content['root'])), ...configFaults(yaml, content)];
}

/** What the image itself wants stands on the same command line. */
function tooLong(yaml: YamlFile, { image }: References): Fault[] {
  const own = member(yaml.value, 'cmdline');
  const [ofImage, ofProfile] = [image?.cmdline ?? [], Array.isArray(own) ? (own as unknown[]) : []];
  const length = [...ofImage, ...ofProfile].join(' ').length;
  if (ofImage.length === 0 || length <= CMDLINE_MAX || ofProfile.join(' ').length > CMDLINE_MAX) return [];
  return [{ file: yaml.file, ...yaml.place(['cmdline']), message: `cmdline has ${length} characters with the image's own (${ofImage.join(' ').length}), at most ${CMDLINE_MAX} fit` }];
}

/** An unknown key that is near to one of these has told its own fault already. */
function misspelt(content: Record<string, unknown>, keys: readonly string[]): boolean {
  return Object.keys(content).some((key) => !Object.hasOwn(profileSchema.shape, key) && nearest(key, keys));
}

/** `[console=ttyS0,115200]` is two entries: in a flow list YAML ends a plain entry at the comma. */
function cutParameters(yaml: YamlFile): Fault[] {
  const list = yaml.document.get('cmdline', true);
  if (!isSeq(list) || !list.flow) return [];
  return list.items.flatMap((item, index): Fault[] => {
    const before = list.items[index - 1];
    if (!isScalar(item) || !isScalar(before) || item.type !== 'PLAIN' || !/^\d[^.=]*$/.test(String(item.value))) return [];
    if (item.range?.[0] !== (before.range?.[1] ?? 0) + 1) return [];
    const whole = `${String(before.value)},${String(item.value)}`;
    return [{ file: yaml.file, ...yaml.place(['cmdline', index]), message: `${String(item.value)} was cut off from its parameter at the comma`, hint: `quote it: "${whole}"` }];
  });
}

function build(profiles: readonly { readonly name: string; readonly spec: ProfileSpec; readonly dhcpOptions: DhcpOptions; readonly references: References }[], quirks: readonly Quirk[]): Generation {
  // Without prototypes: a lookup of a name that a stranger chose finds only what was put in.
  const content = { profiles: record<Profile>(), bootSets: record<BootSet>(), nodes: record<Node>(), nodeByMac: record<string>(), nodeByIp: record<string>() };
  for (const { name, spec, dhcpOptions: { ofAll, ofNode }, references } of profiles) {
    const bootSet = bootSetOf(spec, references);
    const id = bootSet && digestOfValue(bootSet);
    if (bootSet && id) content.bootSets[id] = bootSet;
    content.profiles[name] = { name, ...(id ? { bootSet: id } : {}) };
    for (const [nodeName, node] of Object.entries(spec.nodes ?? {})) {
      const macs = node.macs.map((mac): Mac => parseMac(mac)!);
      const ip: Ip4 | undefined = node.ip === undefined ? undefined : parseIp4(node.ip);
      const dhcpOptions = { ...ofAll, ...ofNode.get(nodeName) };
      // Absent and not empty: the digest of a node without options or loader is what it was before there were any.
      // `auto` that is written comes before a quirk's loader, as any other.
      const loader = node.loader ?? spec.loader;
      const loaders = node.loaders ?? spec.loaders;
      const more = { ...(ip ? { ip } : {}), ...(node.next ? { next: node.next } : {}), ...(loader ? { loader } : {}), ...(loaders ? { loaders } : {}), ...(node.exit ? { exit: node.exit as ExitMethod } : {}), ...(isEmpty(dhcpOptions) ? {} : { dhcpOptions }), ...(node.ssh?.keys?.length ? { sshKeys: node.ssh.keys } : {}), ...(isEmpty(node.config) ? {} : { config: node.config! }) };
      content.nodes[nodeName] = { name: nodeName, macs, ...more, labels: node.labels ?? {}, vars: node.vars ?? {}, profile: name, source: 'yaml' };
      for (const mac of macs) content.nodeByMac[mac] = nodeName;
      if (ip) content.nodeByIp[ip] = nodeName;
    }
  }
  const whole = quirks.length > 0 ? { ...content, quirks } : content;
  const id: Digest = digestOfValue(whole);
  return freeze({ id, ...whole });
}

function bootSetOf(spec: ProfileSpec, { image, postBoot, artifacts }: References): BootSet | undefined {
  if (!image) return undefined;
  const { ssh, config, shell } = spec;
  return {
    image,
    // The profile's come last: of two equal parameters the last one counts, for the kernel and for us.
    cmdline: [...(image.cmdline ?? []), ...(spec.cmdline ?? [])],
    root: rootOf(spec.root),
    ...(postBoot ? { postBoot } : {}),
    artifacts,
    vars: spec.vars ?? {},
    ...(ssh?.keys?.length ? { sshKeys: ssh.keys } : {}),
    ...(isEmpty(config) ? {} : { config: config! }),
    ...(shell ? { shell } : {}),
  };
}

function isEmpty(record: object | null | undefined): boolean {
  return Object.keys(record ?? {}).length === 0;
}

function record<T>(): Record<string, T> {
  return Object.create(null) as Record<string, T>;
}

function freeze<T extends object>(value: T): T {
  for (const member of Object.values(value)) if (typeof member === 'object' && member !== null) freeze(member as object);
  return Object.freeze(value);
}

function inOrder(faults: readonly Fault[]): Fault[] {
  const key = ({ file, line, column, message }: Fault) => `${file}\0${String(line).padStart(9, '0')}\0${String(column).padStart(9, '0')}\0${message}`;
  return [...faults].sort((a, b) => (key(a) < key(b) ? -1 : 1));
}
