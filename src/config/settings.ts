// rackseed.yaml: what the daemon serves, where and from what. Read once at start.
import { existsSync, readFileSync } from 'node:fs';
import { dirname, resolve } from 'node:path';
import { z } from 'zod';
import { broadcastOf, ip4FromNumber, ip4ToNumber, parseIp4, parseRange, parseSubnet, subnetContains, type Ip4 } from '../addr.ts';
import type { ServedSubnet } from '../dhcp/lease.ts';
import { AppError, FaultsError, type Fault } from '../errors.ts';
import { readYaml, type YamlFile } from './document.ts';
import { knownKeys, plainWords, zodFaults, type Path } from './faults.ts';

const ip4 = z.string().refine((text) => parseIp4(text) !== undefined, 'not an IPv4 address, such as 10.77.0.1').meta({ format: 'ipv4' });
/** Leases and refreshes of less than a second are none; more than ten years is a typing mistake. */
const duration = z
  .union([z.number(), z.string()], { error: 'not a duration, such as 90s, 30m, 12h or 7d' })
  .refine((value) => /^[1-9]\d{0,8}[smhd]?$/.test(String(value)) && seconds(value) <= 315_360_000, 'not a duration, such as 90s, 30m, 12h or 7d');

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
    .record(z.string().regex(/^[a-z0-9][a-z0-9._-]*$/, 'not a repository name: lower-case letters, digits and . _ -'), z.strictObject({ url: z.string().min(1), refresh: duration.default('5m') }))
    .default({})
    .describe('post-boot repositories to mirror; `post-boot`, the shipped one, is always there'),
  log: z.strictObject({ level: z.enum(['trace', 'debug', 'info', 'warn', 'error']).default('info') }).prefault({}),
});

/** What the address rules read is what the file says. */
export type SubnetSettings = ServedSubnet;

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
  const faults = [...yaml.faults, ...subnetFaults(raw, yaml)];
  if (faults.length > 0) throw new FaultsError('CONFIG_INVALID', faults);
  const subnets = raw.dhcp.subnets.map(
    (entry): SubnetSettings => ({
      subnet: parseSubnet(entry.subnet)!,
      serverIp: entry.serverIp,
      ...(entry.pool ? { pool: parseRange(entry.pool)! } : {}),
      ...(entry.router ? { router: entry.router } : {}),
      dns: entry.dns,
      ...(entry.domain ? { domain: entry.domain } : {}),
      leaseSeconds: seconds(entry.leaseTime),
    }),
  );
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

/** What a schema of single values cannot say of subnets: who lies in whom. */
function subnetFaults(raw: z.output<typeof settingsSchema>, yaml: YamlFile): Fault[] {
  const faults: Fault[] = [];
  const fault = (path: Path, message: string) => faults.push({ file: yaml.file, ...yaml.place(path), message });
  if (raw.dhcp.mode === 'full' && raw.dhcp.subnets.length === 0) fault(['dhcp', 'mode'], 'dhcp.mode full needs at least one of dhcp.subnets');
  raw.dhcp.subnets.forEach((entry, index) => {
    const at = (key: string): Path => ['dhcp', 'subnets', index, key];
    const subnet = parseSubnet(entry.subnet)!;
    const inside = (ip: Ip4) => subnetContains(subnet, ip) && (subnet.prefix > 30 || (ip !== ip4FromNumber(subnet.network) && ip !== broadcastOf(subnet)));
    if (!inside(entry.serverIp)) fault(at('serverIp'), `serverIp ${entry.serverIp} is not in ${entry.subnet}`);
    if (entry.router && !inside(entry.router)) fault(at('router'), `router ${entry.router} is not in ${entry.subnet}`);
    const pool = entry.pool ? parseRange(entry.pool) : undefined;
    if (pool && !(inside(ip4FromNumber(pool.first)) && inside(ip4FromNumber(pool.last)))) fault(at('pool'), `pool ${entry.pool} is not in ${entry.subnet}`);
    for (const [what, ip] of [['serverIp', entry.serverIp], ['router', entry.router]] as const) {
      if (pool && ip && ip4ToNumber(ip) >= pool.first && ip4ToNumber(ip) <= pool.last) fault(at('pool'), `pool ${entry.pool} contains ${what} ${ip}, which no machine can have`);
    }
    raw.dhcp.subnets.slice(0, index).forEach((other, before) => {
      const known = parseSubnet(other.subnet)!;
      if (!subnetContains(known, ip4FromNumber(subnet.network)) && !subnetContains(subnet, ip4FromNumber(known.network))) return;
      const place = yaml.place(['dhcp', 'subnets', before, 'subnet']);
      fault(at('subnet'), `subnet ${entry.subnet} overlaps ${other.subnet}, at ${yaml.file}:${place.line}:${place.column}`);
    });
  });
  return faults;
}

function seconds(value: number | string): number {
  const [, amount, unit] = /^(\d+)([smhd]?)$/.exec(String(value))!;
  return Number(amount) * { '': 1, s: 1, m: 60, h: 3600, d: 86400 }[unit as '' | 's' | 'm' | 'h' | 'd'];
}
