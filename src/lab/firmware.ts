// The firmware that a lab machine can have: what QEMU needs for it, what must be installed, and what its boot then shows.
import { copyFileSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { basename, dirname, join } from 'node:path';
import type { Chain } from '../boot/timeline.ts';
import { AppError } from '../errors.ts';
import { ownKeys, withVariables } from './nvram.ts';
import { placeOf } from './unpacked.ts';

export const LAB_FIRMWARE = ['bios', 'bios-e1000', 'bios-rtl8139', 'uefi', 'uefi-http', 'uefi-http-uki', 'uefi-proxy', 'uefi-arm64', 'secureboot', 'secureboot-own'] as const;
export type LabFirmware = (typeof LAB_FIRMWARE)[number];

export interface FirmwareRow {
  /** For people: what runs before anything of ours. */
  readonly what: string;
  /** What a boot shows on its way to ready. */
  readonly chain: Chain;
  /** Absent: amd64. */
  readonly arch?: 'arm64';
  /** QEMU's name of the card, and its properties beyond netdev and mac. */
  readonly card: string;
  /** EDK2's image and the template of its variables; absent: QEMU's own SeaBIOS. */
  readonly edk2?: { readonly code: string; readonly vars: string; /** Its settings that are switched off, by QEMU's fw_cfg. */ readonly off: readonly string[]; /** Built for Secure Boot: only system management mode writes its flash. */ readonly smm?: true };
  /** What the lab's profile says as `loader`; absent: nothing, which is `auto`. `uki`: the lab makes one of its image. */
  readonly loader?: string;
  /** The lab's own keys are in the firmware, which boots nothing else; the UKI is signed with them. */
  readonly ownKeys?: true;
  /** A loader that Debian 12's ipxe has not: the set is the directory where it is. */
  readonly newerLoader?: string;
  /** Loaders of several packages: the set is a directory of copies. */
  readonly loaderFiles?: readonly string[];
  /** The card is one of silicon: the shipped image's cloud kernel has no driver for it. */
  readonly drivers?: true;
  /** Another server gives the addresses: rackseed is in proxy mode beside it. */
  readonly proxy?: true;
  /** Files that must be there, installed or unpacked, each with the Debian package that has it (`name/suite` where the machine's own suite may not). */
  readonly files: readonly (readonly [file: string, debianPackage: string])[];
}

export const QEMU = 'qemu-system-x86_64';

const CODE = '/usr/share/OVMF/OVMF_CODE_4M.fd';
const VARS = '/usr/share/OVMF/OVMF_VARS_4M.fd';
const SECURE_CODE = '/usr/share/OVMF/OVMF_CODE_4M.secboot.fd';
/** The same, with Microsoft's keys in its variables. */
const MS_CODE = '/usr/share/OVMF/OVMF_CODE_4M.ms.fd';
const MS_VARS = '/usr/share/OVMF/OVMF_VARS_4M.ms.fd';
const SHIM = '/usr/lib/shim/shimx64.efi.signed';
const SHIMS_GRUB = '/usr/lib/grub/x86_64-efi-signed/grubnetx64.efi.signed';
const UNDIONLY = '/usr/lib/ipxe/undionly.kpxe';
const STUB = [['/usr/lib/systemd/boot/efi/linuxx64.efi.stub', 'systemd-boot-efi']] as const;
const SIGNING = [['/usr/bin/sbsign', 'sbsigntool'], ['/usr/bin/cert-to-efi-sig-list', 'efitools'], ['/usr/bin/openssl', 'openssl']] as const;
/** Of `-machine virt` with AAVMF, as Debian 12 has them; from trixie's AAVMF on, a cortex-a57 is offered no network boot (measured). */
const AARCH64 = '/usr/bin/qemu-system-aarch64';
/** Its image is built by it. */
const USER_AARCH64 = '/usr/bin/qemu-aarch64-static';
const AAVMF_CODE = '/usr/share/AAVMF/AAVMF_CODE.fd';
const AAVMF_VARS = '/usr/share/AAVMF/AAVMF_VARS.fd';
const ARM64_LOADER = '/usr/lib/ipxe/ipxe-arm64.efi';
const rom = (card: string) => [[`/usr/lib/ipxe/qemu/pxe-${card}.rom`, 'ipxe-qemu']] as const;

/** The card without its ROM, which would be iPXE's UEFI driver: EDK2's own network stack is what stands in racks. */
const BARE_CARD = 'virtio-net-pci,romfile=,bootindex=1';
// DHCPv6 first would be a minute of asking: nobody answers it here.
const uefi = (off: readonly string[]) => ({ card: BARE_CARD, edk2: { code: CODE, vars: VARS, off: ['IPv6PXESupport', ...off] }, files: [[CODE, 'ovmf'], [VARS, 'ovmf']] }) as const;
const HTTP = uefi(['IPv4PXESupport']);

const ROWS: Readonly<Record<LabFirmware, FirmwareRow>> = {
  // The cards' own ROMs, as QEMU ships them: virtio-net.rom of the ipxe package never booted (TRAPS 4).
  bios: { what: 'SeaBIOS, iPXE ROM of a virtio card', chain: 'bios-ipxe', card: 'virtio-net-pci', files: rom('virtio') },
  'bios-e1000': { what: 'SeaBIOS, iPXE ROM of an Intel e1000', chain: 'bios-ipxe', card: 'e1000', drivers: true, files: rom('e1000') },
  'bios-rtl8139': { what: 'SeaBIOS, iPXE ROM of a Realtek 8139', chain: 'bios-ipxe', card: 'rtl8139', drivers: true, files: rom('rtl8139') },
  uefi: { what: "EDK2's own PXE", chain: 'uefi-rom', ...uefi([]) },
  'uefi-http': { what: "EDK2's HTTP Boot", chain: 'uefi-http', ...HTTP },
  'uefi-http-uki': { what: "EDK2's HTTP Boot of a UKI, no iPXE", chain: 'uefi-http-uki', loader: 'uki', ...HTTP, files: [...HTTP.files, ...STUB] },
  'uefi-proxy': { what: "EDK2's own PXE, addresses by dnsmasq: port 4011", chain: 'uefi-rom-proxy', proxy: true, ...uefi([]) },
  'uefi-arm64': {
    what: "AAVMF's own PXE, arm64",
    chain: 'uefi-rom',
    arch: 'arm64',
    card: BARE_CARD,
    edk2: { code: AAVMF_CODE, vars: AAVMF_VARS, off: ['IPv6PXESupport'] },
    newerLoader: ARM64_LOADER,
    files: [[AARCH64, 'qemu-system-arm'], [AAVMF_CODE, 'qemu-efi-aarch64'], [AAVMF_VARS, 'qemu-efi-aarch64'], [ARM64_LOADER, 'ipxe/sid'], [USER_AARCH64, 'qemu-user-static']],
  },
  secureboot: {
    what: "EDK2's own PXE, Secure Boot with Microsoft's keys: Debian's shim and GRUB",
    chain: 'uefi-grub',
    loader: 'shim',
    card: BARE_CARD,
    edk2: { code: MS_CODE, vars: MS_VARS, off: ['IPv6PXESupport'], smm: true },
    loaderFiles: [SHIM, SHIMS_GRUB, UNDIONLY],
    // GRUB 2.06, which does this chain by TFTP; by HTTP only 2.12 does.
    files: [[MS_CODE, 'ovmf'], [MS_VARS, 'ovmf'], [SHIM, 'shim-signed/bookworm'], [SHIMS_GRUB, 'grub-efi-amd64-signed/bookworm'], [UNDIONLY, 'ipxe']],
  },
  'secureboot-own': {
    what: "EDK2's HTTP Boot of a signed UKI, Secure Boot with keys of one's own",
    chain: 'uefi-http-uki',
    loader: 'uki',
    ownKeys: true,
    ...HTTP,
    edk2: { ...HTTP.edk2, code: SECURE_CODE, smm: true },
    files: [[SECURE_CODE, 'ovmf'], [VARS, 'ovmf'], ...STUB, ...SIGNING],
  },
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

/** Where a file of the row is; PACKAGES_MISSING when nowhere. */
export function placed(firmware: LabFirmware, file: string): string {
  const debianPackage = ROWS[firmware].files.find(([known]) => known === file)?.[1] ?? '';
  const path = placeOf(file, plainName(debianPackage));
  if (path === undefined) throw new AppError('PACKAGES_MISSING', `the lab needs ${file}`, howToGet(firmware, [debianPackage]));
  return path;
}

/** The program that is such a machine. */
export function emulatorOf(firmware: LabFirmware): string {
  return ROWS[firmware].arch === 'arm64' ? placed(firmware, AARCH64) : QEMU;
}

/** QEMU's user emulator for the image of such machines; undefined where none is needed. */
export function userEmulatorOf(firmware: LabFirmware): string | undefined {
  return ROWS[firmware].arch === 'arm64' ? placed(firmware, USER_AARCH64) : undefined;
}

/** The loader set of such machines, a directory of its own below `state` where it comes from several; undefined: the daemon's default. */
export function loadersDirOf(firmware: LabFirmware, state: string): string | undefined {
  const { newerLoader, loaderFiles } = ROWS[firmware];
  if (loaderFiles) {
    const dir = join(state, `loaders-${firmware}`);
    mkdirSync(dir, { recursive: true });
    for (const file of loaderFiles) copyFileSync(placed(firmware, file), join(dir, basename(file)));
    return dir;
  }
  return newerLoader === undefined ? undefined : dirname(placed(firmware, newerLoader));
}

function plainName(debianPackage: string): string {
  return debianPackage.split('/')[0]!;
}

/** Debian packages of this firmware that are not here. */
export function missingPackages(name: LabFirmware): string[] {
  return [...new Set(ROWS[name].files.filter(([file, debianPackage]) => !placeOf(file, plainName(debianPackage))).map(([, debianPackage]) => debianPackage))];
}

/** How packages that are missing come here. Those of a named suite are unpacked by the bootstrap: installed, some would change this machine. */
export function howToGet(firmware: LabFirmware, packages: readonly string[]): string {
  const toInstall = packages.filter((name) => !name.includes('/'));
  return toInstall.length > 0 ? `apt-get install --no-install-recommends ${toInstall.join(' ')}` : `npm run lab -- --firmware ${firmware} unpacks them`;
}

/**
 * `name`'s own copy of the firmware's variables in `dir`: firmware writes there, as real firmware does to its flash. undefined for firmware that has none.
 * `keys` is where the lab's own are, for a row that has them in it.
 */
export function copyVars(firmware: LabFirmware, name: string, dir: string, keys: string): string | undefined {
  const row = ROWS[firmware];
  if (!row.edk2) return undefined;
  const list = (key: string): Buffer => readFileSync(join(keys, `${key}.esl`));
  const store = readFileSync(placed(firmware, row.edk2.vars));
  const vars = join(dir, `vars-${name}.fd`);
  writeFileSync(vars, row.ownKeys ? withVariables(store, ownKeys({ PK: list('PK'), KEK: list('KEK'), db: list('db') })) : store);
  return vars;
}

/** QEMU's arguments for the firmware itself; `vars` as copyVars gave it. */
export function firmwareArgs(firmware: LabFirmware, vars: string | undefined): string[] {
  const { edk2, arch } = ROWS[firmware];
  if (!edk2) return [];
  if (vars === undefined) throw new AppError('BUG', `firmware ${firmware} needs a file for its variables`);
  return [
    ...(edk2.smm ? ['-machine', 'smm=on', '-global', 'driver=cfi.pflash01,property=secure,value=on', '-global', 'ICH9-LPC.disable_s3=1'] : arch ? [] : ['-machine', 'smm=off']),
    ...['-drive', `if=pflash,unit=0,format=raw,readonly=on,file=${placed(firmware, edk2.code).replaceAll(',', ',,')}`, '-drive', `if=pflash,unit=1,format=raw,file=${vars.replaceAll(',', ',,')}`],
    ...edk2.off.flatMap((setting) => ['-fw_cfg', `name=opt/org.tianocore/${setting},string=n`]),
  ];
}
