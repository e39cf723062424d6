// The numbers of DHCP: options, message types, and the sub-options that we use.

/** The options we read or write, by their IANA names. */
export const OPT = {
  pad: 0,
  subnetMask: 1,
  router: 3,
  dns: 6,
  hostName: 12,
  domain: 15,
  interfaceMtu: 26,
  broadcast: 28,
  ntp: 42,
  vendorSpecific: 43,
  requestedIp: 50,
  leaseTime: 51,
  overload: 52,
  messageType: 53,
  serverId: 54,
  parameterList: 55,
  message: 56,
  maxSize: 57,
  renewalTime: 58,
  rebindingTime: 59,
  vendorClass: 60,
  clientId: 61,
  tftpServer: 66,
  bootFile: 67,
  userClass: 77,
  rapidCommit: 80,
  fqdn: 81,
  relayAgent: 82,
  clientArch: 93,
  clientNdi: 94,
  clientUuid: 97,
  subnetSelection: 118,
  domainSearch: 119,
  classlessRoutes: 121,
  tftpAddresses: 150,
  ipxe: 175,
  end: 255,
} as const;

/** Option 53 (RFC 2132 section 9.6). */
export const MESSAGE = { discover: 1, offer: 2, request: 3, decline: 4, ack: 5, nak: 6, release: 7, inform: 8 } as const;
export type MessageName = keyof typeof MESSAGE;

/** Sub-options of 175 and 43 that we write. */
export const IPXE_NO_PXEDHCP = 176;
export const PXE_DISCOVERY_CONTROL = 6;

/** Sub-options of 82: the relay's port, the machine behind it (RFC 3046), and the link it is on when giaddr is not there (RFC 3527). */
export const RELAY = { circuitId: 1, remoteId: 2, linkSelection: 5 } as const;
