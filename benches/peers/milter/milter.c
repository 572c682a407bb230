/* A milter that asks for every stage of a mail and says yes to each at once: what the protocol itself costs.
   Usage: milter unix:/path/of/socket */

#include <libmilter/mfapi.h>
#include <stddef.h>
#include <sys/stat.h>

static sfsistat on_connect(SMFICTX *context, char *host, _SOCK_ADDR *address) { return SMFIS_CONTINUE; }
static sfsistat on_helo(SMFICTX *context, char *name) { return SMFIS_CONTINUE; }
static sfsistat on_mail(SMFICTX *context, char **arguments) { return SMFIS_CONTINUE; }
static sfsistat on_recipient(SMFICTX *context, char **arguments) { return SMFIS_CONTINUE; }
static sfsistat on_data(SMFICTX *context) { return SMFIS_CONTINUE; }
static sfsistat on_header(SMFICTX *context, char *name, char *value) { return SMFIS_CONTINUE; }
static sfsistat on_end_of_header(SMFICTX *context) { return SMFIS_CONTINUE; }
static sfsistat on_body(SMFICTX *context, unsigned char *octets, size_t length) { return SMFIS_CONTINUE; }
static sfsistat on_end(SMFICTX *context) { return SMFIS_CONTINUE; }

int main(int count, char **arguments) {
    struct smfiDesc milter = {
        .xxfi_name = "bench",
        .xxfi_version = SMFI_VERSION,
        .xxfi_connect = on_connect,
        .xxfi_helo = on_helo,
        .xxfi_envfrom = on_mail,
        .xxfi_envrcpt = on_recipient,
        .xxfi_data = on_data,
        .xxfi_header = on_header,
        .xxfi_eoh = on_end_of_header,
        .xxfi_body = on_body,
        .xxfi_eom = on_end,
    };
    umask(0); /* Postfix comes as its own user. */
    if (count != 2 || smfi_setconn(arguments[1]) != MI_SUCCESS || smfi_register(milter) != MI_SUCCESS) return 1;
    smfi_setbacklog(512);
    return smfi_main() == MI_SUCCESS ? 0 : 1;
}
