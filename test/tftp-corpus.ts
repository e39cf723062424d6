// Datagrams as TFTP clients send them: what mutation starts from.
import { encodeTftp, type TftpPacket } from '../src/tftp/packet.ts';

const request = (file: string, options: Record<string, string> = {}, mode = 'octet', kind: 'rrq' | 'wrq' = 'rrq'): TftpPacket => ({ kind, file, mode, options: new Map(Object.entries(options)) });

/** `mac`: of a node. */
export function tftpSeeds(mac: string): readonly Uint8Array[] {
  const dashes = mac.replaceAll(':', '-');
  const packets: TftpPacket[] = [
    // tftp-hpa and busybox without options.
    request('undionly.kpxe'),
    // A BIOS ROM that asks for the size, and then for the file.
    request('undionly.kpxe', { tsize: '0' }),
    request('undionly.kpxe', { blksize: '1456' }),
    // EDK2, iPXE, atftp, curl.
    request('snponly.efi', { tsize: '0', blksize: '1468', windowsize: '4' }),
    request('autoexec.ipxe', { blksize: '1432', tsize: '0' }),
    request('undionly.kpxe', { tsize: '0', blksize: '8192', timeout: '5', multicast: '', windowsize: '64' }),
    request('boot.ipxe', { tsize: '0', blksize: '512', timeout: '6' }),
    request(`${dashes}/kernel`, { blksize: '1024', tsize: '0' }),
    request(`/${mac}/initrd`, { blksize: '65464', windowsize: '65535' }),
    request(`01-${dashes}/boot.ipxe`),
    request('../../../../etc/passwd', { tsize: '0' }),
    request('undionly.kpxe', {}, 'netascii'),
    request('undionly.kpxe', {}, 'OCTET', 'wrq'),
    { kind: 'ack', block: 0 },
    { kind: 'ack', block: 1 },
    { kind: 'ack', block: 65_535 },
    { kind: 'data', block: 1, data: new Uint8Array(512) },
    { kind: 'error', code: 8, message: 'TFTP Aborted' },
    { kind: 'error', code: 0, message: '' },
    { kind: 'oack', options: new Map([['blksize', '1468']]) },
  ];
  return packets.map((packet) => Uint8Array.from(encodeTftp(packet)));
}
