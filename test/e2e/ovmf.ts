// A lab machine with UEFI: OVMF as its firmware, and EDK2's own network stack instead of the ROM that QEMU's cards bring.
import { copyFileSync } from 'node:fs';
import { join } from 'node:path';

const CODE = '/usr/share/OVMF/OVMF_CODE_4M.fd';
const VARS = '/usr/share/OVMF/OVMF_VARS_4M.fd';

/** More arguments for QEMU; `dir` takes the machine's own copy of the firmware's variables. `http`: HTTP Boot instead of PXE. */
export function ovmfArgs(dir: string, { http = false } = {}): string[] {
  const vars = join(dir, 'ovmf-vars.fd');
  copyFileSync(VARS, vars);
  const off = (setting: string) => ['-fw_cfg', `name=opt/org.tianocore/${setting},string=n`];
  return [
    ...['-machine', 'smm=off'],
    ...['-drive', `if=pflash,unit=0,format=raw,readonly=on,file=${CODE}`, '-drive', `if=pflash,unit=1,format=raw,file=${vars}`],
    ...['-global', 'virtio-net-pci.romfile=', '-global', 'virtio-net-pci.bootindex=1'],
    ...off('IPv6PXESupport'),
    ...(http ? off('IPv4PXESupport') : []),
  ];
}
