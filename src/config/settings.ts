// rackseed.yaml: what the daemon serves, where and from what. Read once at start.
import { existsSync, readFileSync } from 'node:fs';
import { dirname, resolve } from 'node:path';
import { LineCounter, parseDocument } from 'yaml';
import { z } from 'zod';
import { parseIp4, parseRange, parseSubnet, subnetContains, type Ip4, type IpRange, type Subnet } from '../addr.ts';
import { AppError, FaultsError } from '../errors.ts';
import { knownKeys, placeOf, yamlFaults, zodFaults } from './faults.ts';

const ip4 = z.string().refine((text) => parseIp4(text) !== undefined, 'not an IPv4 address, such as 10.77.0.1');
const duration = z.union([z.number().int().positive(), z.string().regex(/^\d+(s|m|h|d)$/, 'a duration, such as 90s, 30m, 12h or 7d')]);

/** The one source of what may stand in rackseed.yaml: check, editor schema and docs come from it. */
export const settingsSchema = z.strictObject({
  stateDir: z.string().default('/var/lib/rackseed').describe('database, blobs, mirrored repositories'),
  profiles: z.string().default('boot-profiles').describe('directory of boot profiles; relative to this file'),
  dhcp: z
    .strictObject({
      mode: z.enum(['off', 'full']).default('off'),
      subnets: z
        .array(
          z.strictObject({
            subnet: z.string().refine((text) => parseSubnet(text) !== undefined, 'not a subnet, such as 10.77.0.0/24 (host bits must be zero)'),
            serverIp: ip4.describe('our own address in this subnet; answers leave by the card that holds it'),
            pool: z.string().refine((text) => parseRange(text) !== undefined, 'not a range, such as 10.77.0.100-10.77.0.199').optional(),
            router: ip4.optional(),
            dns: z.array(ip4).default([]),
            domain: z.string().optional(),
            leaseTime: duration.default('12h'),
          }),
        )
        .default([]),
    })
    .prefault({}),
  tftp: z.strictObject({ enabled: z.boolean().default(true) }).prefault({}),
  http: z.strictObject({ port: z.number().int().min(1).max(65535).default(8080), listen: z.array(ip4).optional().describe('addresses for machines; default: each subnet\'s serverIp') }).prefault({}),
  api: z
    .strictObject({
      socket: z.string().optional().describe('Unix socket; default <stateDir>/api.sock'),
      port: z.number().int().min(0).max(65535).default(8081).describe('on 127.0.0.1 only; 0 = none'),
    })
    .prefault({}),
  loaders: z.strictObject({ dir: z.string().default('/usr/lib/ipxe') }).prefault({}),
  repos: z
    .record(z.string().regex(/^[a-z0-9][a-z0-9._-]*$/), z.strictObject({ url: z.string().min(1), refresh: duration.default('5m') }))
    .default({})
    .describe('post-boot repositories to mirror; `post-boot`, the shipped one, is always there'),
  log: z.strictObject({ level: z.enum(['trace', 'debug', 'info', 'warn', 'error']).default('info') }).prefault({}),
});

export interface SubnetSettings {
  readonly subnet: Subnet;
  readonly serverIp: Ip4;
  readonly pool?: IpRange;
  readonly router?: Ip4;
  readonly dns: readonly Ip4[];
  readonly domain?: string;
  readonly leaseSeconds: number;
}

export interface Settings {
  /** The file it came from. */
  readonly file: string;
  readonly stateDir: string;
  readonly profilesDir: string;
  readonly dhcp: { readonly mode: 'off' | 'full'; readonly subnets: readonly SubnetSettings[] };
  readonly tftp: { readonly enabled: boolean };
  readonly http: { readonly port: number; readonly listen: readonly Ip4[] };
  readonly api: { readonly socket: string; readonly port: number };
  readonly loadersDir: string;
  readonly repos: Readonly<Record<string, { readonly url: string; readonly refreshSeconds: number }>>;
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

export function parseSettings(text: string, file: string): Settings {
  const lines = new LineCounter();
  const document = parseDocument(text, { lineCounter: lines });
  const syntax = yamlFaults(document, file);
  if (syntax.length > 0) throw new FaultsError('CONFIG_INVALID', syntax);
  const parsed = settingsSchema.safeParse(document.toJS() ?? {});
  if (!parsed.success) throw new FaultsError('CONFIG_INVALID', zodFaults(parsed.error, document, lines, file, (path) => knownKeys(settingsSchema, path)));
  const raw = parsed.data;
  const base = dirname(resolve(file));
  const stateDir = resolve(base, raw.stateDir);
  const subnets = raw.dhcp.subnets.map((entry, index): SubnetSettings => {
    const subnet = parseSubnet(entry.subnet)!;
    if (!subnetContains(subnet, entry.serverIp)) {
      const place = placeOf(document, lines, ['dhcp', 'subnets', index, 'serverIp']);
      throw new FaultsError('CONFIG_INVALID', [{ file, ...place, message: `serverIp ${entry.serverIp} is not in ${entry.subnet}` }]);
    }
    return {
      subnet,
      serverIp: entry.serverIp,
      ...(entry.pool ? { pool: parseRange(entry.pool)! } : {}),
      ...(entry.router ? { router: entry.router } : {}),
      dns: entry.dns,
      ...(entry.domain ? { domain: entry.domain } : {}),
      leaseSeconds: seconds(entry.leaseTime),
    };
  });
  return {
    file,
    stateDir,
    profilesDir: resolve(base, raw.profiles),
    dhcp: { mode: raw.dhcp.mode, subnets },
    tftp: raw.tftp,
    http: { port: raw.http.port, listen: raw.http.listen ?? subnets.map((subnet) => subnet.serverIp) },
    api: { socket: raw.api.socket ? resolve(base, raw.api.socket) : resolve(stateDir, 'api.sock'), port: raw.api.port },
    loadersDir: resolve(base, raw.loaders.dir),
    repos: Object.fromEntries(Object.entries(raw.repos).map(([name, repo]) => [name, { url: repo.url, refreshSeconds: seconds(repo.refresh) }])),
    logLevel: raw.log.level,
  };
}

function seconds(value: number | string): number {
  if (typeof value === 'number') return value;
  const unit = { s: 1, m: 60, h: 3600, d: 86400 }[value.slice(-1) as 's' | 'm' | 'h' | 'd'];
  return Number(value.slice(0, -1)) * unit;
}
