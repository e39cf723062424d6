// The firmware that a lab machine can have: what QEMU needs for it, what must be installed, and what its boot then shows.
import { copyFileSync, existsSync } from 'node:fs';
import { join } from 'node:path';
import type { Chain } from '../boot/timeline.ts';
import { AppError } from '../errors.ts';

export const LAB_FIRMWARE = ['bios', 'bios-e1000', 'bios-rtl8139', 'uefi', 'uefi-http', 'uefi-proxy'] as const;
export type LabFirmware = (typeof LAB_FIRMWARE)[number];

export interface FirmwareRow {
  /** For people: what runs before anything of ours. */
  readonly what: string;
  /** What a boot shows on its way to ready. */
  readonly chain: Chain;
  /** QEMU's name of the card, and its properties beyond netdev and mac. */
  readonly card: string;
  /** EDK2's image and the template of its variables; absent: QEMU's own SeaBIOS. */
  readonly edk2?: { readonly code: string; readonly vars: string; /** Its settings that are switched off, by QEMU's fw_cfg. */ readonly off: readonly string[] };
  /** The card is one of silicon: the shipped image's cloud kernel has no driver for it. */
  readonly drivers?: true;
  /** Another server gives the addresses: rackseed is in proxy mode beside it. */
  readonly proxy?: true;
  /** Files that must be there, each with the Debian package that has it. */
  readonly files: readonly (readonly [file: string, debianPackage: string])[];
}

const CODE = '/usr/share/OVMF/OVMF_CODE_4M.fd';
const VARS = '/usr/share/OVMF/OVMF_VARS_4M.fd';
const rom = (card: string) => [[`/usr/lib/ipxe/qemu/pxe-${card}.rom`, 'ipxe-qemu']] as const;

/** The card without its ROM, which would be iPXE's UEFI driver: EDK2's own network stack is what stands in racks. */
const BARE_CARD = 'virtio-net-pci,romfile=,bootindex=1';
// DHCPv6 first would be a minute of asking: nobody answers it here.
const uefi = (off: readonly string[]) => ({ card: BARE_CARD, edk2: { code: CODE, vars: VARS, off: ['IPv6PXESupport', ...off] }, files: [[CODE, 'ovmf'], [VARS, 'ovmf']] }) as const;

const ROWS: Readonly<Record<LabFirmware, FirmwareRow>> = {
  // The cards' own ROMs, as QEMU ships them: virtio-net.rom of the ipxe package never booted (TRAPS 4).
  bios: { what: 'SeaBIOS, iPXE ROM of a virtio card', chain: 'bios-ipxe', card: 'virtio-net-pci', files: rom('virtio') },
  'bios-e1000': { what: 'SeaBIOS, iPXE ROM of an Intel e1000', chain: 'bios-ipxe', card: 'e1000', drivers: true, files: rom('e1000') },
  'bios-rtl8139': { what: 'SeaBIOS, iPXE ROM of a Realtek 8139', chain: 'bios-ipxe', card: 'rtl8139', drivers: true, files: rom('rtl8139') },
  uefi: { what: "EDK2's own PXE", chain: 'uefi-rom', ...uefi([]) },
  'uefi-http': { what: "EDK2's HTTP Boot", chain: 'uefi-http', ...uefi(['IPv4PXESupport']) },
  'uefi-proxy': { what: "EDK2's own PXE, addresses by dnsmasq: port 4011", chain: 'uefi-rom-proxy', proxy: true, ...uefi([]) },
};

export function firmwareRow(name: LabFirmware): FirmwareRow {
  return ROWS[name];
}

/** The row that `--firmware` names. USAGE, with all names, when there is none. */
export function readFirmware(name: string): LabFirmware {
  const found = LAB_FIRMWARE.find((known) => known === name);
  if (!found) throw new AppError('USAGE', `--firmware ${name}: the lab has no such firmware`, `known are: ${LAB_FIRMWARE.join(' ')}`);
  return found;
}

/** Debian packages of this firmware that are not here. */
export function missingPackages(name: LabFirmware): string[] {
  return [...new Set(ROWS[name].files.filter(([file]) => !existsSync(file)).map(([, debianPackage]) => debianPackage))];
}

/** `name`'s own copy of the firmware's variables in `dir`: firmware writes there, as real firmware does to its flash. undefined for firmware that has none. */
export function copyVars(firmware: LabFirmware, name: string, dir: string): string | undefined {
  const { edk2 } = ROWS[firmware];
  if (!edk2) return undefined;
  const vars = join(dir, `vars-${name}.fd`);
  copyFileSync(edk2.vars, vars);
  return vars;
}

/** QEMU's arguments for the firmware itself; `vars` as copyVars gave it. */
export function firmwareArgs(firmware: LabFirmware, vars: string | undefined): string[] {
  const { edk2 } = ROWS[firmware];
  if (!edk2) return [];
  if (vars === undefined) throw new AppError('BUG', `firmware ${firmware} needs a file for its variables`);
  return [
    ...['-machine', 'smm=off'],
    ...['-drive', `if=pflash,unit=0,format=raw,readonly=on,file=${edk2.code}`, '-drive', `if=pflash,unit=1,format=raw,file=${vars.replaceAll(',', ',,')}`],
    ...edk2.off.flatMap((setting) => ['-fw_cfg', `name=opt/org.tianocore/${setting},string=n`]),
  ];
}
