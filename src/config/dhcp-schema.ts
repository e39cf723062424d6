// What may stand under `dhcp:` in rackseed.yaml.
import { z } from 'zod';
import { isDomain } from '../dhcp/names.ts';
import { optionsSchema } from './options-map.ts';
import { addressOrRange, cardName, duration, ip4, range, seconds, subnet } from './scalars.ts';

const mode = z.enum(['off', 'proxy', 'full']);
const serve = z.enum(['known', 'discovered', 'any']);

const pool = z.strictObject({
  range: z.union([range, z.array(range).min(1, 'needs at least one range')], { error: ({ input }) => (input === undefined ? 'missing' : 'must be a range, or a list of ranges') }).describe('one range, or a list of ranges'),
  profiles: z.array(z.string().regex(/^[a-z0-9][a-z0-9._-]*$/, 'not the name of a profile')).min(1, 'needs at least one profile').optional().describe('only for nodes of these profiles'),
  labels: z.record(z.string(), z.union([z.string(), z.int()])).optional().describe('only for nodes that carry all of these labels'),
});

const subnetEntry = z.strictObject({
  subnet,
  mode: mode.optional().describe("default: that of its card's entry under interfaces, else dhcp.mode"),
  serve: serve.optional().describe("default: that of its card's entry under interfaces, else dhcp.serve"),
  interface: cardName.optional().describe('the card on whose link it lies; default: the one that holds serverIp, or has an address in the subnet'),
  serverIp: ip4.optional().describe("our own address towards its machines; default: the card's address in the subnet; relayed: the first address that we listen on"),
  relayed: z.boolean().default(false).describe('no card of ours is on it: its machines reach us through a relay'),
  pool: range.optional().describe('short form of pools: [{ range: … }]'),
  pools: z.array(pool).min(1, 'needs at least one pool').optional().describe('addresses that are given to nodes without one of their own; in this order'),
  exclude: z.array(addressOrRange).default([]).describe('addresses and ranges that are never given from a pool'),
  router: ip4.optional().describe("the machines' way out"),
  dns: z.array(ip4).default([]).describe('name servers'),
  domain: z.string().refine(isDomain, 'not a domain name, such as rack.example').optional().describe('domain of the host names'),
  leaseTime: duration.refine((value) => seconds(value) >= 10, 'a lease lasts 10s at least').default('12h').describe('of addresses that are given: seconds, or 90s, 30m, 12h, 7d'),
  options: optionsSchema.default({}),
  conflictCheck: z
    .union([z.enum(['on', 'off']), z.boolean()], { error: 'must be on or off' })
    .default('on')
    .describe('whether a new address of a pool is looked for on the link before it is offered; a relayed subnet cannot be looked at'),
});

export const dhcpSchema = z.strictObject({
  mode: mode.default('proxy').describe("for interfaces and subnets that name none; proxy: boot files beside another server's addresses; full: addresses too"),
  serve: serve.default('known').describe('known: nodes that a profile names; discovered: PXE machines beside them; any: every client'),
  interfaces: z
    .array(z.union([cardName, z.strictObject({ name: cardName, mode: mode.optional(), serve: serve.optional() })], { error: 'must be the name of a card, or { name, mode, serve }' }))
    .default([])
    .describe('cards to listen on; each serves the subnet of its own address; mode off: for relays only'),
  onConflict: z.enum(['refuse', 'proxy', 'ignore']).default('refuse').describe('another DHCP server answers on a link of mode full: do not start, serve that link in mode proxy, or never look'),
  otherServers: z.array(ip4).default([]).describe('DHCP servers that are known and welcome'),
  subnets: z.array(subnetEntry).default([]),
});

export type RawDhcp = z.output<typeof dhcpSchema>;
export type RawSubnet = RawDhcp['subnets'][number];
