// rackseed.yaml: what the daemon serves, where and from what. Read once at start.
import { existsSync, readFileSync } from 'node:fs';
import { dirname, resolve } from 'node:path';
import { isScalar } from 'yaml';
import { z } from 'zod';
import type { Ip4 } from '../addr.ts';
import { DEFAULT_MAX_STREAMS } from '../boot/admission.ts';
import { FAILURES_BEFORE_HOLD } from '../boot/hold.ts';
import { BUILT_IN_SET, isLoaderSet, LOADER_SET, NO_LOADER_SET } from '../boot/loader-set.ts';
import type { DhcpSettings } from '../dhcp/links.ts';
import { AppError, FaultsError, type Fault } from '../errors.ts';
import { dhcpSchema } from './dhcp-schema.ts';
import { dhcpSettings } from './dhcp-settings.ts';
import { readYaml, type YamlFile } from './document.ts';
import { knownKeys, plainWords, zodFaults } from './faults.ts';
import { imagesSchema, imagesSettings, type ImagesSettings } from './images-settings.ts';
import { bytesOf, duration, httpBase, ip4, seconds, size } from './scalars.ts';
import { tftpSchema, tftpSettings, type TftpSettings } from './tftp-settings.ts';
import { tlsPlaces, tlsSchema, type TlsSettings } from './tls.ts';

export type { DhcpSettings, SubnetSettings } from '../dhcp/links.ts';
export type { TftpSettings } from './tftp-settings.ts';

const loaderSet = z.string().refine(isLoaderSet, NO_LOADER_SET).meta({ pattern: LOADER_SET.source });

/** When a running daemon reads its profiles again; `rackseed reload` (the API) does it always. */
export const RELOADS = ['auto', 'on-signal', 'manual'] as const;
export type Reload = (typeof RELOADS)[number];

/** The one source of what may stand in rackseed.yaml: check, editor schema and docs come from it. */
export const settingsSchema = z.strictObject({
  stateDir: z.string().default('/var/lib/rackseed').describe('database, blobs, mirrored repositories'),
  profiles: z.string().default('boot-profiles').describe('directory of boot profiles; relative to this file'),
  reload: z.enum(RELOADS).default('auto').describe('when the profiles are read again: auto: at each edit; on-signal: at SIGHUP and `rackseed reload` only; manual: at `rackseed reload` only'),
  boot: z.strictObject({ holdAfter: z.number().int().min(0).max(1000).default(FAILURES_BEFORE_HOLD).describe('boots that may fail in a row before the node is held until somebody releases it; 0: it is never held') }).prefault({}),
  dhcp: dhcpSchema.prefault({}),
  tftp: tftpSchema.prefault({}),
  http: z
    .strictObject({
      port: z.number().int().min(1).max(65535).default(8080),
      listen: z.array(ip4).optional().describe('addresses for machines; default: our address towards each subnet'),
      maxStreams: z.number().int().min(1).max(100_000).default(DEFAULT_MAX_STREAMS).describe('machines that fetch an image at once; the others wait in a queue'),
      cacheBytes: size.default('256MiB').describe('memory for what downloads send, of all threads together; 0: none'),
      publicBase: httpBase.optional().describe('where machines fetch images from instead: a web server or CDN with the same paths; we stay its fallback'),
      fallbacks: z.array(httpBase).max(16).optional().describe('further web servers with the same paths, asked in their order for an image when it comes neither from publicBase nor from us'),
      threads: z.number().int().min(1).max(64).optional().describe('worker threads for machines; default: one for each core but one, four at most; without koffi always one'),
      tls: tlsSchema.optional().describe('HTTPS beside plain HTTP, the same routes'),
    })
    .prefault({}),
  blobs: z
    .strictObject({ scrub: z.union([z.literal('off'), duration]).default('7d').describe('how often each blob is read again in the background, to find rot; off: never') })
    .prefault({}),
  api: z
    .strictObject({
      socket: z.string().optional().describe('Unix socket; default <stateDir>/api.sock'),
      port: z.number().int().min(0).max(65535).default(8081).describe('on 127.0.0.1 only; 0 = none'),
    })
    .prefault({}),
  loaders: z
    .strictObject({
      dir: z.string().default('/usr/lib/ipxe').describe('the built-in loader set: a directory with iPXE\'s programs'),
      sets: z.record(loaderSet, z.string()).default({}).describe('further loader sets by name, each a directory; those of rackseed loader add need no entry'),
      default: loaderSet.optional().describe('the loader set of machines whose profile names none; default: the built-in one'),
    })
    .prefault({}),
  images: imagesSchema.prefault({}),
  repos: z
    .record(z.string().regex(/^[a-z0-9][a-z0-9._-]*$/, 'not a repository name: lower-case letters, digits and . _ -'), z.strictObject({ url: z.string().min(1), refresh: duration.default('5m') }))
    .default({})
    .describe('post-boot repositories to mirror; `post-boot`, the shipped one, is always there'),
  user: z
    .string()
    .regex(/^[a-z_][a-z0-9_-]{0,31}$/, 'not the name of a user')
    .nullable()
    .optional()
    .describe('whom to become once the ports are bound, when started as root; null: stay root; default rackseed, where there is such a user'),
  log: z.strictObject({ level: z.enum(['trace', 'debug', 'info', 'warn', 'error']).default('info') }).prefault({}),
});

export interface Settings {
  /** The file it came from. */
  readonly file: string;
  readonly stateDir: string;
  readonly profilesDir: string;
  readonly reload: Reload;
  /** 0: never. */
  readonly holdAfter: number;
  readonly dhcp: DhcpSettings;
  readonly tftp: TftpSettings;
  /** Without `listen`: on every address that machines are sent to. */
  readonly http: { readonly port: number; readonly threads?: number; readonly tls?: TlsSettings; readonly listen?: readonly Ip4[]; readonly maxStreams: number; readonly cacheBytes: number; readonly publicBase?: string; readonly fallbacks?: readonly string[] };
  /** Absent: never. */
  readonly blobs: { readonly scrubSeconds?: number };
  readonly api: { readonly socket: string; readonly port: number };
  readonly loaders: { readonly dir: string; readonly sets: Readonly<Record<string, string>>; readonly default: string; /** Where the default stands. */ readonly at: { readonly line: number; readonly column: number } };
  readonly images: ImagesSettings;
  readonly repos: Readonly<Record<string, { readonly url: string; readonly refreshSeconds: number }>>;
  /** As it was written: null = stay who we are; absent = `rackseed`, if there is such a user. */
  readonly user?: string | null;
  readonly logLevel: string;
}

/** Where `serve` and the other commands look when no `--config` is given. */
export const SETTINGS_PLACES = ['rackseed.yaml', '/etc/rackseed/rackseed.yaml'] as const;

/** Reads and checks the settings. CONFIG_MISSING or CONFIG_INVALID (a FaultsError with every fault) as AppError. */
export function readSettings(path?: string): Settings {
  const file = path ?? SETTINGS_PLACES.find((place) => existsSync(place));
  if (!file || !existsSync(file)) {
    throw new AppError(
      'CONFIG_MISSING',
      file ? `${file}: no such file` : `no settings file: looked for ${SETTINGS_PLACES.join(' and ')}`,
      'write rackseed.yaml (README, "Run the daemon", has one to start from), or try everything without one: npm run lab',
    );
  }
  return parseSettings(readFileSync(file, 'utf8'), file);
}

/** Parses and checks the text of a settings file; CONFIG_INVALID (a FaultsError with every fault). */
export function parseSettings(text: string, file: string): Settings {
  const yaml = readYaml(text, file, { scalars: 'typed' });
  if (yaml.value === undefined) throw new FaultsError('CONFIG_INVALID', yaml.faults);
  const parsed = settingsSchema.safeParse(yaml.value ?? {}, { error: plainWords });
  if (!parsed.success) {
    const faults = zodFaults(parsed.error, yaml.document, yaml.lines, file, (path) => knownKeys(settingsSchema, path));
    throw new FaultsError('CONFIG_INVALID', [...yaml.faults, ...faults]);
  }
  const raw = parsed.data;
  const base = dirname(resolve(file));
  const stateDir = resolve(base, raw.stateDir);
  const { dhcp, faults: wrong } = dhcpSettings(raw.dhcp, yaml);
  const { tftp, faults: wrongToo } = tftpSettings(raw.tftp, yaml);
  const { images, faults: wrongImages } = imagesSettings(raw.images, stateDir, yaml);
  const faults = [...yaml.faults, ...wrong, ...wrongToo, ...wrongImages, ...emptyUser(yaml), ...portsAlike(yaml, raw.http), ...builtInSet(yaml, raw.loaders.sets)];
  if (faults.length > 0) throw new FaultsError('CONFIG_INVALID', faults);
  return {
    file,
    stateDir,
    profilesDir: resolve(base, raw.profiles),
    reload: raw.reload,
    holdAfter: raw.boot.holdAfter,
    dhcp,
    tftp,
    http: { port: raw.http.port, ...(raw.http.threads === undefined ? {} : { threads: raw.http.threads }), ...(raw.http.tls ? { tls: { port: raw.http.tls.port, cert: resolve(base, raw.http.tls.cert), key: resolve(base, raw.http.tls.key), at: tlsPlaces(yaml) } } : {}), maxStreams: raw.http.maxStreams, cacheBytes: bytesOf(raw.http.cacheBytes), ...(raw.http.publicBase ? { publicBase: raw.http.publicBase.replace(/\/+$/, '') } : {}), ...(raw.http.fallbacks?.length ? { fallbacks: raw.http.fallbacks.map((base) => base.replace(/\/+$/, '')) } : {}), ...(raw.http.listen ? { listen: raw.http.listen } : {}) },
    blobs: raw.blobs.scrub === 'off' ? {} : { scrubSeconds: seconds(raw.blobs.scrub) },
    api: { socket: raw.api.socket ? resolve(base, raw.api.socket) : resolve(stateDir, 'api.sock'), port: raw.api.port },
    loaders: { dir: resolve(base, raw.loaders.dir), sets: Object.fromEntries(Object.entries(raw.loaders.sets).map(([name, dir]) => [name, resolve(base, dir)])), default: raw.loaders.default ?? BUILT_IN_SET, at: yaml.place(['loaders', 'default']) },
    images,
    repos: Object.fromEntries(Object.entries(raw.repos).map(([name, repo]) => [name, { url: repo.url, refreshSeconds: seconds(repo.refresh) }])),
    ...(raw.user === undefined ? {} : { user: raw.user }),
    logLevel: raw.log.level,
  };
}

/** `user:` with nothing behind it is null in YAML too, and nobody means by it to go on as root. */
function emptyUser(yaml: YamlFile): Fault[] {
  const node = yaml.document.get('user', true) as unknown;
  return isScalar(node) && node.value === null && !node.source ? [{ file: yaml.file, ...yaml.place(['user']), message: 'user: empty', hint: 'user: null stays root' }] : [];
}

function portsAlike(yaml: YamlFile, { port, tls }: { readonly port: number; readonly tls?: { readonly port: number } | undefined }): Fault[] {
  return tls?.port === port ? [{ file: yaml.file, ...yaml.place(['http', 'tls', 'port']), message: `http.tls.port: ${port} is the port of plain HTTP`, hint: 'HTTPS needs one of its own; its default is 8443' }] : [];
}

function builtInSet(yaml: YamlFile, sets: Readonly<Record<string, string>>): Fault[] {
  return Object.hasOwn(sets, BUILT_IN_SET) ? [{ file: yaml.file, ...yaml.place(['loaders', 'sets', BUILT_IN_SET], { key: true }), message: `${BUILT_IN_SET} is the built-in loader set`, hint: 'its directory is loaders.dir' }] : [];
}
