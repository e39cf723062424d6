// The variables of EDK2's flash, written as its own setup screens would leave them: what a person would type in at each machine. Pure.
import type { Mac } from '../addr.ts';

/** `guid` is the vendor's as it lies in memory, in hex. */
export interface Variable {
  readonly name: string;
  readonly guid: string;
  readonly attributes: number;
  readonly data: Uint8Array;
}

/** NON_VOLATILE | BOOTSERVICE_ACCESS. */
const BOOT_ONLY = 0x03;
/** And RUNTIME_ACCESS | TIME_BASED_AUTHENTICATED_WRITE_ACCESS. */
const KEY = 0x27;
const GLOBAL = '61dfe48bca93d211aa0d00e098032b8c';
const SECURITY_DATABASE = 'cbb219d73a3d9645a3bcdad00e67656f';
const SECURE_BOOT_ENABLE = 'c70ba3f008af564599c4001009c93a44';
const VLAN_CONFIG = '68d7239ef3d266439fc33a7aba864374';

/** EDK2's MdeModulePkg/Include/Guid/VariableFormat.h: the authenticated store begins behind the volume's header, whose length stands at 0x30. */
const STORE_HEADER = 28;
const STORE_GUID = '782cf3aa7b949a43a1802e144ec37792';
const VARIABLE_HEADER = 60;

/** Secure Boot switched on with these signature lists (`.esl`) and no others: what they do not vouch for is refused. */
export function ownKeys(lists: { readonly PK: Uint8Array; readonly KEK: Uint8Array; readonly db: Uint8Array }): Variable[] {
  return [
    { name: 'PK', guid: GLOBAL, attributes: KEY, data: lists.PK },
    { name: 'KEK', guid: GLOBAL, attributes: KEY, data: lists.KEK },
    { name: 'db', guid: SECURITY_DATABASE, attributes: KEY, data: lists.db },
    { name: 'SecureBootEnable', guid: SECURE_BOOT_ENABLE, attributes: BOOT_ONLY, data: Uint8Array.of(1) },
  ];
}

/** The card boots by this VLAN, and by it alone: of MnpDxe, which keeps the tags of a card's VLANs under its MAC. */
export function vlanSetting(card: Mac, id: number): Variable {
  const data = Buffer.alloc(2);
  data.writeUInt16LE(id);
  return { name: card.replaceAll(':', '').toUpperCase(), guid: VLAN_CONFIG, attributes: BOOT_ONLY, data };
}

/** A copy of an empty variable store, such as OVMF_VARS_4M.fd, with these in it. RangeError for anything else. */
export function withVariables(store: Uint8Array, variables: readonly Variable[]): Buffer {
  const copy = Buffer.from(store);
  const start = copy.length > 0x32 ? copy.readUInt16LE(0x30) : 0;
  if (copy.toString('hex', start, start + 16) !== STORE_GUID) throw new RangeError(`no authenticated variable store at ${start}`);
  const first = start + STORE_HEADER;
  const bytes = Buffer.concat(variables.map(written));
  if (!copy.subarray(first, first + bytes.length).every((byte) => byte === 0xff)) throw new RangeError('the variable store is not empty');
  copy.set(bytes, first);
  return copy;
}

function written({ name, guid, attributes, data }: Variable): Buffer {
  const text = Buffer.from(`${name}\0`, 'utf16le');
  const header = Buffer.alloc(VARIABLE_HEADER);
  header.writeUInt16LE(0x55aa, 0);
  // VAR_ADDED.
  header.writeUInt8(0x3f, 2);
  header.writeUInt32LE(attributes, 4);
  // The time of the last write, 2025-01-01: what is signed later may replace it.
  if (attributes === KEY) header.set([0xe9, 0x07, 1, 1], 16);
  header.writeUInt32LE(text.length, 36);
  header.writeUInt32LE(data.length, 40);
  header.write(guid, 44, 'hex');
  const whole = Buffer.concat([header, text, data]);
  return Buffer.concat([whole, Buffer.alloc((4 - (whole.length % 4)) % 4, 0xff)]);
}
