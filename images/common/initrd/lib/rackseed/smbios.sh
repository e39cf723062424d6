# What the firmware's tables say of the machine: the daemon knows machines by it that need something else (docs/HARDWARE.md, Quirks).

# Lines for enrol, in $smbios: manufacturer, product and serial, as far as they are there. The kernel made files of them; boards without SMBIOS have none.
read_smbios() {
  smbios=
  for pair in manufacturer:sys_vendor product:product_name serial:product_serial; do
    value=
    # A file need not end with a line break, so `read` may fail and yet have read.
    [ -r "${DMI:=/sys/class/dmi/id}/${pair#*:}" ] && read -r value <"$DMI/${pair#*:}"
    case $value in
      # The length that enrol sends is counted in characters.
      '' | *[!\ -~]*) ;;
      *) smbios="$smbios${pair%%:*} $value
" ;;
    esac
  done
}
