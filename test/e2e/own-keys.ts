// A lab machine with the operator's own Secure Boot keys enrolled: OVMF's variables written as its own setup screens would leave them.
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';

const CODE = '/usr/share/OVMF/OVMF_CODE_4M.secboot.fd';
const VARS = '/usr/share/OVMF/OVMF_VARS_4M.fd';

/** EDK2's MdeModulePkg/Include/Guid/VariableFormat.h: the authenticated store begins behind the volume's header, whose length stands at 0x30. */
const STORE_HEADER = 28;
const STORE_GUID = '782cf3aa7b949a43a1802e144ec37792';
const VARIABLE_HEADER = 60;
/** NON_VOLATILE | BOOTSERVICE_ACCESS, and for keys RUNTIME_ACCESS | TIME_BASED_AUTHENTICATED_WRITE_ACCESS. */
const [BOOT_ONLY, KEY] = [0x03, 0x27];
const GLOBAL = '61dfe48bca93d211aa0d00e098032b8c';
const SECURITY_DATABASE = 'cbb219d73a3d9645a3bcdad00e67656f';
const SECURE_BOOT_ENABLE = 'c70ba3f008af564599c4001009c93a44';

function variable(name: string, guid: string, attributes: number, data: Uint8Array): Buffer {
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

/** More arguments for QEMU, on a machine without firmware of the lab's; `keys`: what `rackseed keys init secure-boot` made. */
export function ownKeysArgs(dir: string, keys: string, { http = true } = {}): string[] {
  const store = readFileSync(VARS);
  const start = store.readUInt16LE(0x30);
  if (store.toString('hex', start, start + 16) !== STORE_GUID) throw new Error(`${VARS} has no authenticated variable store at ${start}`);
  const esl = (name: string): Buffer => readFileSync(join(keys, `${name}.esl`));
  store.set(Buffer.concat([variable('PK', GLOBAL, KEY, esl('PK')), variable('KEK', GLOBAL, KEY, esl('KEK')), variable('db', SECURITY_DATABASE, KEY, esl('db')), variable('SecureBootEnable', SECURE_BOOT_ENABLE, BOOT_ONLY, Buffer.of(1))]), start + STORE_HEADER);
  const vars = join(dir, 'own-keys-vars.fd');
  writeFileSync(vars, store);
  const off = (setting: string): string[] => ['-fw_cfg', `name=opt/org.tianocore/${setting},string=n`];
  return [
    ...['-machine', 'smm=on', '-global', 'driver=cfi.pflash01,property=secure,value=on', '-global', 'ICH9-LPC.disable_s3=1'],
    ...['-drive', `if=pflash,unit=0,format=raw,readonly=on,file=${CODE}`, '-drive', `if=pflash,unit=1,format=raw,file=${vars}`],
    ...['-global', 'virtio-net-pci.romfile=', '-global', 'virtio-net-pci.bootindex=1'],
    ...off('IPv6PXESupport'),
    ...(http ? off('IPv4PXESupport') : []),
  ];
}
