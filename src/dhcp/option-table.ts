// The options that operators may set: IANA's numbers, the names that Kea uses for them, and the type of their value. Those that are rackseed's own have a reason.

/** How a value is written in YAML and on the wire. */
export const OPTION_TYPES = ['ip', 'ips', 'uint8', 'uint16', 'uint32', 'int32', 'bool', 'text', 'hex', 'domains', 'routes'] as const;
export type OptionType = (typeof OPTION_TYPES)[number];

export interface KnownOption {
  readonly code: number;
  readonly type: OptionType;
  /** The least number that the RFC allows. */
  readonly least?: number;
  /** Addresses come in pairs: destination and router, or address and mask. */
  readonly pairs?: boolean;
}

const known = (code: number, type: OptionType, more: Omit<KnownOption, 'code' | 'type'> = {}): KnownOption => ({ code, type, ...more });

/** RFC 2132 unless said otherwise. */
export const KNOWN_OPTIONS: Readonly<Record<string, KnownOption>> = {
  'time-offset': known(2, 'int32'),
  'time-servers': known(4, 'ips'),
  'name-servers': known(5, 'ips'),
  'log-servers': known(7, 'ips'),
  'cookie-servers': known(8, 'ips'),
  'lpr-servers': known(9, 'ips'),
  'impress-servers': known(10, 'ips'),
  'resource-location-servers': known(11, 'ips'),
  'boot-size': known(13, 'uint16'),
  'merit-dump': known(14, 'text'),
  'swap-server': known(16, 'ip'),
  'root-path': known(17, 'text'),
  'extensions-path': known(18, 'text'),
  'ip-forwarding': known(19, 'bool'),
  'non-local-source-routing': known(20, 'bool'),
  'policy-filter': known(21, 'ips', { pairs: true }),
  'max-dgram-reassembly': known(22, 'uint16', { least: 576 }),
  'default-ip-ttl': known(23, 'uint8', { least: 1 }),
  'path-mtu-aging-timeout': known(24, 'uint32'),
  'interface-mtu': known(26, 'uint16', { least: 68 }),
  'all-subnets-local': known(27, 'bool'),
  'perform-mask-discovery': known(29, 'bool'),
  'mask-supplier': known(30, 'bool'),
  'router-discovery': known(31, 'bool'),
  'router-solicitation-address': known(32, 'ip'),
  'static-routes': known(33, 'ips', { pairs: true }),
  'trailer-encapsulation': known(34, 'bool'),
  'arp-cache-timeout': known(35, 'uint32'),
  'ieee802-3-encapsulation': known(36, 'bool'),
  'default-tcp-ttl': known(37, 'uint8', { least: 1 }),
  'tcp-keepalive-interval': known(38, 'uint32'),
  'tcp-keepalive-garbage': known(39, 'bool'),
  'nis-domain': known(40, 'text'),
  'nis-servers': known(41, 'ips'),
  'ntp-servers': known(42, 'ips'),
  'netbios-name-servers': known(44, 'ips'),
  'netbios-dd-server': known(45, 'ips'),
  'netbios-node-type': known(46, 'uint8', { least: 1 }),
  'netbios-scope': known(47, 'text'),
  'font-servers': known(48, 'ips'),
  'x-display-manager': known(49, 'ips'),
  'nisplus-domain-name': known(64, 'text'),
  'nisplus-servers': known(65, 'ips'),
  'mobile-ip-home-agent': known(68, 'ips'),
  'smtp-server': known(69, 'ips'),
  'pop-server': known(70, 'ips'),
  'nntp-server': known(71, 'ips'),
  'www-server': known(72, 'ips'),
  'finger-server': known(73, 'ips'),
  'irc-server': known(74, 'ips'),
  'streettalk-server': known(75, 'ips'),
  'streettalk-directory-assistance-server': known(76, 'ips'),
  /** RFC 4833. */
  pcode: known(100, 'text'),
  tcode: known(101, 'text'),
  /** RFC 8925. */
  'v6-only-preferred': known(108, 'uint32'),
  /** RFC 8910. */
  'v4-captive-portal': known(114, 'text'),
  /** RFC 3397. */
  'domain-search': known(119, 'domains'),
  /** RFC 3442. */
  'classless-static-route': known(121, 'routes'),
  /** RFC 5417. */
  'capwap-ac-v4': known(138, 'ips'),
  /** RFC 5859. */
  'tftp-server-address': known(150, 'ips'),
};

interface OwnOption {
  readonly name: string;
  /** What to do instead. */
  readonly hint: string;
}

const key = (name: string, word: string): OwnOption => ({ name, hint: `use the key \`${word}\` of the subnet` });
const boot = (name: string): OwnOption => ({ name, hint: 'rackseed sets it for booting, by what the machine is and what its profile says' });
const client = (name: string): OwnOption => ({ name, hint: 'only clients and relays say it; where an answer repeats it, rackseed does so' });
const protocol = (name: string): OwnOption => ({ name, hint: 'it belongs to the protocol itself' });

/** Options that nobody sets by hand, by number. */
export const OWN_OPTIONS: Readonly<Record<number, OwnOption>> = {
  0: protocol('pad'),
  1: key('subnet-mask', 'subnet'),
  3: key('routers', 'router'),
  6: key('domain-name-servers', 'dns'),
  12: { name: 'host-name', hint: 'it is the name of the node' },
  15: key('domain-name', 'domain'),
  28: key('broadcast-address', 'subnet'),
  43: boot('vendor-encapsulated-options'),
  50: client('dhcp-requested-address'),
  51: key('dhcp-lease-time', 'leaseTime'),
  52: protocol('dhcp-option-overload'),
  53: protocol('dhcp-message-type'),
  54: key('dhcp-server-identifier', 'serverIp'),
  55: client('dhcp-parameter-request-list'),
  56: protocol('dhcp-message'),
  57: client('dhcp-max-message-size'),
  58: key('dhcp-renewal-time', 'leaseTime'),
  59: key('dhcp-rebinding-time', 'leaseTime'),
  60: boot('vendor-class-identifier'),
  61: client('dhcp-client-identifier'),
  66: boot('tftp-server-name'),
  67: boot('boot-file-name'),
  77: client('user-class'),
  80: protocol('rapid-commit'),
  81: { name: 'fqdn', hint: 'it is made of the name of the node and the key `domain` of the subnet' },
  82: client('dhcp-agent-options'),
  90: protocol('authentication'),
  93: client('client-system'),
  94: client('client-ndi'),
  97: client('uuid-guid'),
  118: client('subnet-selection'),
  175: boot('ipxe-encap-opts'),
  255: protocol('end'),
};

/** Names that `options` and `dhcpOptions` know, for editors and "did you mean". */
export const OPTION_NAMES: readonly string[] = Object.keys(KNOWN_OPTIONS);
