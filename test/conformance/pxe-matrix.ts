// The PXE matrix: what each architecture, asker, mode and port is answered. Written by hand from the sources that each group names; nothing in it is computed.

/** One answer as the machine sees it; options absent where undefined. */
export interface Expected {
  readonly message: 'offer' | 'ack';
  readonly yiaddr: string;
  readonly siaddr: string;
  /** The BOOTP field. */
  readonly file: string;
  /** Vendor-specific information, hex. */
  readonly 43?: string;
  readonly 60?: string;
  readonly 66?: string;
  readonly 67?: string;
  /** iPXE's own, hex. */
  readonly 175?: string;
  readonly to: string;
}

export type Cell = Expected | { readonly silent: string };
export type MatrixAsker = 'PXEClient' | 'HTTPClient' | 'iPXE';

export interface MatrixRow {
  /** Option 93 (RFC 4578 section 2.1, IANA "Processor Architecture Types"). */
  readonly arch: number;
  readonly asker: MatrixAsker;
  readonly full67: Cell;
  readonly full4011: Cell;
  readonly proxy67: Cell;
  readonly proxy4011: Cell;
  readonly source: string;
}

// The world: server 10.77.0.1 with HTTP on 8080, node n1 of an amd64 image, its reservation 10.77.0.11; beside another server it has 10.77.0.55.
const ALL = '255.255.255.255:68';
const SCRIPT = 'http://10.77.0.1:8080/script/52-54-00-00-00-01';
const EFI_URL = 'http://10.77.0.1:8080/loaders/snponly.efi';

// BIOS (PXE 2.1 section 2.2 and table 2-1): the boot file of this very offer, tag 6 = 8: no discovery, no menu.
const biosOffer: Cell = { message: 'offer', yiaddr: '10.77.0.11', siaddr: '10.77.0.1', file: 'undionly.kpxe', 43: '060108', 60: 'PXEClient', 66: '10.77.0.1', 67: 'undionly.kpxe', to: ALL };
const biosProxyOffer: Cell = { message: 'offer', yiaddr: '0.0.0.0', siaddr: '10.77.0.1', file: 'undionly.kpxe', 43: '060108', 60: 'PXEClient', 66: '10.77.0.1', 67: 'undionly.kpxe', to: ALL };
const biosAckFull: Cell = { message: 'ack', yiaddr: '0.0.0.0', siaddr: '10.77.0.1', file: 'undionly.kpxe', 43: '060108', 60: 'PXEClient', 66: '10.77.0.1', 67: 'undionly.kpxe', to: '10.77.0.11:68' };
const biosAckProxy: Cell = { message: 'ack', yiaddr: '0.0.0.0', siaddr: '10.77.0.1', file: 'undionly.kpxe', 43: '060108', 60: 'PXEClient', 66: '10.77.0.1', 67: 'undionly.kpxe', to: '10.77.0.55:68' };

// x64 UEFI (TRAPS 1.1, 1.2): no option 43; beside another server the file comes from port 4011 alone.
const uefiOffer: Cell = { message: 'offer', yiaddr: '10.77.0.11', siaddr: '10.77.0.1', file: 'snponly.efi', 60: 'PXEClient', 66: '10.77.0.1', 67: 'snponly.efi', to: ALL };
const uefiProxyOffer: Cell = { message: 'offer', yiaddr: '0.0.0.0', siaddr: '10.77.0.1', file: '', 60: 'PXEClient', to: ALL };
const uefiAckFull: Cell = { message: 'ack', yiaddr: '0.0.0.0', siaddr: '10.77.0.1', file: 'snponly.efi', 60: 'PXEClient', 66: '10.77.0.1', 67: 'snponly.efi', to: '10.77.0.11:68' };
const uefiAckProxy: Cell = { message: 'ack', yiaddr: '0.0.0.0', siaddr: '10.77.0.1', file: 'snponly.efi', 60: 'PXEClient', 66: '10.77.0.1', 67: 'snponly.efi', to: '10.77.0.55:68' };

// x64 UEFI HTTP Boot (UEFI 2.10 section 24.7.3, TRAPS 1.2): option 60 HTTPClient and a URL; the offer is all, also beside another server.
const httpOffer: Cell = { message: 'offer', yiaddr: '10.77.0.11', siaddr: '10.77.0.1', file: EFI_URL, 60: 'HTTPClient', 66: '10.77.0.1', 67: EFI_URL, to: ALL };
const httpProxyOffer: Cell = { message: 'offer', yiaddr: '0.0.0.0', siaddr: '10.77.0.1', file: EFI_URL, 60: 'HTTPClient', 66: '10.77.0.1', 67: EFI_URL, to: ALL };

// An iPXE (TRAPS 1.4, 1.5; its offers as in test/golden/dhcp/qemu_virtio-bios_ipxe-*): the script, and 175.176 = 1 so that it waits for no other proxy.
const ipxeOffer: Cell = { message: 'offer', yiaddr: '10.77.0.11', siaddr: '10.77.0.1', file: SCRIPT, 66: '10.77.0.1', 67: SCRIPT, 175: 'b00101', to: ALL };
const ipxeProxyOffer: Cell = { message: 'offer', yiaddr: '0.0.0.0', siaddr: '10.77.0.1', file: SCRIPT, 60: 'PXEClient', 66: '10.77.0.1', 67: SCRIPT, 175: 'b00101', to: ALL };
const ipxeAckFull: Cell = { message: 'ack', yiaddr: '0.0.0.0', siaddr: '10.77.0.1', file: SCRIPT, 60: 'PXEClient', 66: '10.77.0.1', 67: SCRIPT, 175: 'b00101', to: '10.77.0.11:68' };
const ipxeAckProxy: Cell = { message: 'ack', yiaddr: '0.0.0.0', siaddr: '10.77.0.1', file: SCRIPT, 60: 'PXEClient', 66: '10.77.0.1', 67: SCRIPT, 175: 'b00101', to: '10.77.0.55:68' };

// An address, and nothing that firmware could take for a boot server: it goes on to its next boot device.
const leaseOnly: Cell = { message: 'offer', yiaddr: '10.77.0.11', siaddr: '0.0.0.0', file: '', to: ALL };

const noLoader: Cell = { silent: 'no loader for this architecture yet: a boot server without a boot file keeps the machine from its next boot device' };
const noPort: Cell = { silent: 'UEFI HTTP Boot knows no port 4011 (UEFI 2.10 section 24.7.3): the offer is all it takes' };

const PXE_BIOS = 'RFC 4578 2.1 type 0; PXE 2.1 section 2.2, table 2-1 tag 6';
const PXE_UEFI = 'RFC 4578 2.1 types 7 and 9, both x64 in the field (TRAPS 1.2); TRAPS 1.1: no option 43, file on port 4011';
const PXE_OTHER = 'RFC 4578 2.1; IANA types 10 and 11; no loader here';
const HTTP_X64 = 'IANA type 16; UEFI 2.10 section 24.7.3';
const HTTP_OTHER = 'IANA types 15 and 19; UEFI 2.10 section 24.7.3; no loader here';
const HTTP_CLASS = 'UEFI 2.10 section 24.7.3: it takes only answers with HTTPClient, so its class counts before its type, which names the processor';
const HTTP_NO_LOADER = 'as above, and no loader for this processor';
const HTTP_BIOS = 'a BIOS has no HTTP Boot: no file of ours is sure to run on whatever this is';
const PXE_CLASS = 'PXE 2.1 section 2.2: it takes only answers with PXEClient, so its class counts before its type, which names the processor';
const PXE_NO_LOADER = 'as above, and no loader for this processor';
const IPXE = 'TRAPS 1.4 and 1.5, captures qemu_*-bios_ipxe-discover; iPXE takes the file from the proxy\'s offer, and asks port 4011 only when that has option 43';
const IPXE_OTHER = 'as above; the node\'s image is for another processor, which the script tells on the machine\'s screen (DESIGN: hold)';

export const MATRIX: readonly MatrixRow[] = [
  { arch: 0x00, asker: 'PXEClient', full67: biosOffer, full4011: biosAckFull, proxy67: biosProxyOffer, proxy4011: biosAckProxy, source: PXE_BIOS },
  { arch: 0x06, asker: 'PXEClient', full67: leaseOnly, full4011: noLoader, proxy67: noLoader, proxy4011: noLoader, source: PXE_OTHER },
  { arch: 0x07, asker: 'PXEClient', full67: uefiOffer, full4011: uefiAckFull, proxy67: uefiProxyOffer, proxy4011: uefiAckProxy, source: PXE_UEFI },
  { arch: 0x09, asker: 'PXEClient', full67: uefiOffer, full4011: uefiAckFull, proxy67: uefiProxyOffer, proxy4011: uefiAckProxy, source: PXE_UEFI },
  { arch: 0x0a, asker: 'PXEClient', full67: leaseOnly, full4011: noLoader, proxy67: noLoader, proxy4011: noLoader, source: PXE_OTHER },
  { arch: 0x0b, asker: 'PXEClient', full67: leaseOnly, full4011: noLoader, proxy67: noLoader, proxy4011: noLoader, source: PXE_OTHER },
  { arch: 0x0f, asker: 'PXEClient', full67: leaseOnly, full4011: noLoader, proxy67: noLoader, proxy4011: noLoader, source: PXE_NO_LOADER },
  { arch: 0x10, asker: 'PXEClient', full67: uefiOffer, full4011: uefiAckFull, proxy67: uefiProxyOffer, proxy4011: uefiAckProxy, source: PXE_CLASS },
  { arch: 0x13, asker: 'PXEClient', full67: leaseOnly, full4011: noLoader, proxy67: noLoader, proxy4011: noLoader, source: PXE_NO_LOADER },

  { arch: 0x00, asker: 'HTTPClient', full67: leaseOnly, full4011: noPort, proxy67: noLoader, proxy4011: noPort, source: HTTP_BIOS },
  { arch: 0x06, asker: 'HTTPClient', full67: leaseOnly, full4011: noPort, proxy67: noLoader, proxy4011: noPort, source: HTTP_NO_LOADER },
  { arch: 0x07, asker: 'HTTPClient', full67: httpOffer, full4011: noPort, proxy67: httpProxyOffer, proxy4011: noPort, source: HTTP_CLASS },
  { arch: 0x09, asker: 'HTTPClient', full67: httpOffer, full4011: noPort, proxy67: httpProxyOffer, proxy4011: noPort, source: HTTP_CLASS },
  { arch: 0x0a, asker: 'HTTPClient', full67: leaseOnly, full4011: noPort, proxy67: noLoader, proxy4011: noPort, source: HTTP_NO_LOADER },
  { arch: 0x0b, asker: 'HTTPClient', full67: leaseOnly, full4011: noPort, proxy67: noLoader, proxy4011: noPort, source: HTTP_NO_LOADER },
  { arch: 0x0f, asker: 'HTTPClient', full67: leaseOnly, full4011: noPort, proxy67: noLoader, proxy4011: noPort, source: HTTP_OTHER },
  { arch: 0x10, asker: 'HTTPClient', full67: httpOffer, full4011: noPort, proxy67: httpProxyOffer, proxy4011: noPort, source: HTTP_X64 },
  { arch: 0x13, asker: 'HTTPClient', full67: leaseOnly, full4011: noPort, proxy67: noLoader, proxy4011: noPort, source: HTTP_OTHER },

  { arch: 0x00, asker: 'iPXE', full67: ipxeOffer, full4011: ipxeAckFull, proxy67: ipxeProxyOffer, proxy4011: ipxeAckProxy, source: IPXE },
  { arch: 0x06, asker: 'iPXE', full67: ipxeOffer, full4011: ipxeAckFull, proxy67: ipxeProxyOffer, proxy4011: ipxeAckProxy, source: IPXE_OTHER },
  { arch: 0x07, asker: 'iPXE', full67: ipxeOffer, full4011: ipxeAckFull, proxy67: ipxeProxyOffer, proxy4011: ipxeAckProxy, source: IPXE },
  { arch: 0x09, asker: 'iPXE', full67: ipxeOffer, full4011: ipxeAckFull, proxy67: ipxeProxyOffer, proxy4011: ipxeAckProxy, source: IPXE },
  { arch: 0x0a, asker: 'iPXE', full67: ipxeOffer, full4011: ipxeAckFull, proxy67: ipxeProxyOffer, proxy4011: ipxeAckProxy, source: IPXE_OTHER },
  { arch: 0x0b, asker: 'iPXE', full67: ipxeOffer, full4011: ipxeAckFull, proxy67: ipxeProxyOffer, proxy4011: ipxeAckProxy, source: IPXE_OTHER },
  { arch: 0x0f, asker: 'iPXE', full67: ipxeOffer, full4011: ipxeAckFull, proxy67: ipxeProxyOffer, proxy4011: ipxeAckProxy, source: IPXE_OTHER },
  { arch: 0x10, asker: 'iPXE', full67: ipxeOffer, full4011: ipxeAckFull, proxy67: ipxeProxyOffer, proxy4011: ipxeAckProxy, source: IPXE },
  { arch: 0x13, asker: 'iPXE', full67: ipxeOffer, full4011: ipxeAckFull, proxy67: ipxeProxyOffer, proxy4011: ipxeAckProxy, source: IPXE_OTHER },
];
